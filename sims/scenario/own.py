"""What a scenario names by 'package.module:name': parts and routing policies of the reader's own."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

from sims.scenario.parts import PolicyFor
from sims.toml_source import TomlSource, Where


def own_part(source: TomlSource, where: Where, name: str, protocol: type) -> type[Any]:
    """A class of parts; `protocol` is what they must be like. Raises the source's error."""
    part = _imported(source, where, name)
    method = next(each for each in vars(protocol) if not each.startswith("_"))
    if not isinstance(part, type) or not hasattr(part, "__dataclass_fields__") or not hasattr(part, method):
        source.refuse(where, f"'{name}' is no dataclass with a method '{method}'")
    return part


def own_policy(source: TomlSource, where: Where, name: str) -> PolicyFor:
    """A function that gives each node its routing policy. Raises the source's error."""
    policy: PolicyFor = _imported(source, where, name)
    if not callable(policy):
        source.refuse(where, f"'{name}' is no function that gives a node its policy")
    return policy


def source_file(name: str) -> str | None:
    """The file of the module of what was imported by this name; None where it has none."""
    module = sys.modules.get(name.partition(":")[0])
    return None if module is None else getattr(module, "__file__", None)


def _imported(source: TomlSource, where: Where, name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not module or module.startswith(".") or not attribute:
        source.refuse(where, f"'{name}' can't be imported: write 'package.module:name'")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        source.refuse(where, f"'{name}' can't be imported: {error}")
    except AttributeError as error:
        source.refuse(where, f"'{name}' can't be imported: {error}{_at(error)}")
    except SyntaxError as error:
        source.refuse(where, f"'{name}' can't be imported: {error}")
    except Exception as error:  # noqa: BLE001 - Somebody else's code: told with its place, in one line.
        why = " ".join(f"{type(error).__name__}: {error}".split())
        source.refuse(where, f"'{name}' can't be imported: {why}{_at(error)}")


def _at(error: BaseException) -> str:
    """The line that raised it, where that is not ours or the import system's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = frames[-1] if frames else None
    return f" ({last.filename}, line {last.lineno})" if last is not None and last.filename != __file__ else ""
