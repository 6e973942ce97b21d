"""How the parts of a scenario say which options they have, and the one reader that fills them in from TOML.

A part is a frozen dataclass whose fields are its options:

    @dataclass(frozen=True, kw_only=True)
    class Lookups:
        '''Random nodes look up random targets.'''
        count: int = option(1000, "lookups in all", at_least=1)
        rate_per_s: float = option(100.0, "lookups a second", above=0.0)
        trace: DataFile | None = option(None, "...")

The field's type is checked: bool, int, float (whole numbers too), str (with `choices`), a StrEnum, DataFile, another
such dataclass, `tuple[T, ...]` of any of these, `dict[str, Scalar]` (any keys, plain values) and `T | None`. What is
unknown, missing, of another type, out of range or not there is refused by `TomlSource.refuse`, with line and key. A
part whose options contradict each other has a method `flaw() -> tuple[str, str] | None`: the key, and what is wrong
with it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from math import isfinite
from typing import Any, NewType, TypeVar

from sims.toml_source import TomlSource, Where, suggestion

REQUIRED: Any = dataclasses.MISSING
EXACT = 10**15  # whole numbers from here on are told by their first digits
MAX_ENTRIES = 10_000  # of an array in a scenario

# A file that a scenario names: found, readable, and its checksum noted. The value is the path where it was found.
DataFile = NewType("DataFile", str)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an option's value must be, and what it means."""

    meaning: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    def range_error(self, value: float) -> str | None:
        """What is wrong with a number, as the end of a sentence."""
        if self.at_least is not None and value < self.at_least:
            return f"is less than {_number(self.at_least)}"
        if self.above is not None and value <= self.above:
            return f"is not more than {_number(self.above)}"
        if self.at_most is not None and value > self.at_most:
            return f"is more than {_number(self.at_most)}"
        if self.below is not None and value >= self.below:
            return f"is not less than {_number(self.below)}"
        return None

    def described(self) -> str:
        """The range or the choices, in words; empty without any."""
        words = []
        if self.at_least is not None:
            words.append(f"at least {_number(self.at_least)}")
        if self.above is not None:
            words.append(f"more than {_number(self.above)}")
        if self.at_most is not None:
            words.append(f"at most {_number(self.at_most)}")
        if self.below is not None:
            words.append(f"less than {_number(self.below)}")
        if self.choices:
            words.append(" | ".join(self.choices))
        return ", ".join(words)


def option(
    default: Any = REQUIRED,
    meaning: str = "",
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field that is an option. Without a default (REQUIRED) the scenario must give it."""
    limits = Limits(meaning, at_least, at_most, above, below, tuple(choices))
    return dataclasses.field(default=default, metadata={"limits": limits})


def share(default: Any, meaning: str) -> Any:
    """An option from 0 to 1."""
    return option(default, meaning, at_least=0.0, at_most=1.0)


@dataclasses.dataclass(frozen=True)
class OptionView:
    """One option, for documentation: `p2pvpn-sim keys`."""

    key: str
    type: str
    default: str
    meaning: str
    limits: str


def options_of(part: type) -> list[OptionView]:
    """The options that a part declares."""
    views = []
    hints = typing.get_type_hints(part)
    for field in dataclasses.fields(part):
        limits = field.metadata.get("limits", Limits(""))
        default = "required" if field.default is dataclasses.MISSING else toml_text(field.default)
        views.append(OptionView(field.name, _type_name(hints[field.name]), default, limits.meaning, limits.described()))
    return views


class OptionReader:
    """Fills parts in. `find(name)` is the path of a file that a scenario names, None when it isn't there; `files`
    collects those that were found, by the name that the scenario calls them."""

    def __init__(self, source: TomlSource, find: Callable[[str], str | None]) -> None:
        self.source = source
        self.files: dict[str, str] = {}
        self.named_at: dict[str, str] = {}  # by path: where the scenario names the file, as errors say it
        self._find = find

    def read(self, part: type[T], table: Mapping[str, Any], where: Where, besides: Sequence[str] = ()) -> T:
        """A part from its table; `besides` are keys of the table that somebody else reads."""
        assert dataclasses.is_dataclass(part)
        fields = dataclasses.fields(part)
        self.source.known(where, table, (*besides, *(field.name for field in fields)))
        hints = typing.get_type_hints(part)
        values = {}
        for field in fields:
            if field.name in table:
                limits = field.metadata.get("limits", Limits(""))
                values[field.name] = self._value(hints[field.name], table[field.name], limits, (*where, field.name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                meaning = field.metadata.get("limits", Limits("")).meaning
                self.source.refuse(
                    (*where, field.name), f"this is missing: {meaning}" if meaning else "this is missing"
                )
        made = part(**values)
        if (flaw := getattr(made, "flaw", None)) is not None and (found := flaw()):
            key, why = found
            self.source.refuse((*where, key) if key else where, why)
        return made

    def _value(self, hint: Any, value: Any, limits: Limits, where: Where) -> Any:
        origin = typing.get_origin(hint)
        if origin in (types.UnionType, typing.Union):
            (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
            return self._value(hint, value, limits, where)
        if origin is tuple:
            if not isinstance(value, list) or len(value) > MAX_ENTRIES:
                self.source.refuse(where, f"this must be an array of at most {MAX_ENTRIES} values, such as [1, 2]")
            inner, *more = typing.get_args(hint)
            if more and more != [Ellipsis] and len(value) != len(more) + 1:
                self.source.refuse(where, f"this must be an array of {len(more) + 1} values")
            kinds = [inner] * len(value) if more == [Ellipsis] else [inner, *more]
            return tuple(
                self._value(kind, each, limits, (*where, place))
                for place, (kind, each) in enumerate(zip(kinds, value, strict=True))
            )
        if origin is dict:
            for key, each in self.source.table(where, value, "{ key = value }").items():
                if not isinstance(each, str | int | float | bool):
                    self.source.refuse((*where, key), "this must be a text, a number, true or false")
            return dict(value)
        if hint is DataFile:
            return self._file(value, where)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.read(hint, self.source.table(where, value, "{ key = value }"), where)
        return self._scalar(hint, value, limits, where)

    def _scalar(self, hint: Any, value: Any, limits: Limits, where: Where) -> Any:
        if hint is bool:
            if not isinstance(value, bool):
                self.source.refuse(where, f"{toml_text(value)} is neither true nor false")
            return value
        if hint in (int, float):
            fits = isinstance(value, int) or (hint is float and isinstance(value, float))
            if isinstance(value, bool) or not fits:
                what = "a whole number" if hint is int else "a number"
                self.source.refuse(where, f"{toml_text(value)} is not {what}{_limits_said(limits)}")
            if not _finite(value):
                self.source.refuse(where, f"{str(value)[:20]} is not a finite number")
            if error := limits.range_error(value):
                self.source.refuse(where, f"{_number(value)} {error}")
            return hint(value)
        if not isinstance(value, str):
            self.source.refuse(where, f"{toml_text(value)} is not a text between quotes")
        choices = list(limits.choices)
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            choices = choices or [str(choice) for choice in hint]
        if choices and value not in choices:
            self.source.refuse(where, f"'{value}' is none of {', '.join(choices)}{suggestion(value, choices)}")
        return hint(value) if isinstance(hint, type) and issubclass(hint, StrEnum) else value

    def _file(self, value: Any, where: Where) -> DataFile:
        if not isinstance(value, str) or not value:
            self.source.refuse(where, f"{toml_text(value)} is not the name of a file")
        found = self._find(value)
        if found is None:
            self.source.refuse(
                where, f"there is no file '{value}' beside the scenario, nor in the directory that P2PVPN_DATA names"
            )
        self.files[value] = found
        self.named_at[found] = f"{self.source.place(where)}: {'.'.join(map(str, where))}"
        return DataFile(found)


def _finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number with hundreds of digits
        return False


def _number(value: float) -> str:
    """As people write it: 1,000,000, not 1e+06."""
    return f"{value:,}" if isinstance(value, int) and abs(value) < EXACT else f"{value:,.12g}"


def _limits_said(limits: Limits) -> str:
    described = limits.described()
    return f" ({described})" if described else ""


def _type_name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _type_name(next(each for each in typing.get_args(hint) if each is not type(None)))
    if origin is tuple:
        return f"array of {_type_name(typing.get_args(hint)[0])}"
    if hint is DataFile:
        return "file"
    if origin is dict:
        return "table"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return " | ".join(hint)
    if dataclasses.is_dataclass(hint):
        return "table"
    return {int: "whole number", float: "number", bool: "true | false", str: "text"}.get(hint, str(hint))


def toml_text(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_text(each) for each in value) + "]"
    if isinstance(value, dict):
        return "a table"
    return "none" if value is None else f"{value}"
