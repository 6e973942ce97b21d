"""The files that hold group secrets. † Shell module.

One line each, mode 0600. Never overwrites a file. Every failure is a SetupError that says what to do.
"""

from __future__ import annotations

import os
from pathlib import Path
from secrets import SystemRandom

from dht.groups.right import GroupSecret
from ipop.errors import SetupError

MAX_FILE_BYTES = 4096


def read_secret(path: str) -> str:
    """The text of a group secret, checked."""
    return _read(path).to_text()


def write_secret(path: str, after: str | None = None) -> int:
    """Make a secret, which takes the place of the one in `after`; its epoch."""
    secret = GroupSecret.new(SystemRandom(), None if after is None else _read(after))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secret.to_text())
    except FileExistsError:
        raise SetupError(f"'{path}' exists: remove it first, or choose another name") from None
    except OSError as error:
        raise SetupError(f"cannot write '{path}': {error.strerror}") from None
    return secret.epoch


def _read(path: str) -> GroupSecret:
    try:
        with Path(path).open("rb") as file:
            return GroupSecret.from_text(file.read(MAX_FILE_BYTES).decode("ascii", "replace"))
    except OSError as error:
        raise SetupError(f"cannot read the group secret '{path}': {error.strerror}") from None
    except ValueError as error:
        raise SetupError(f"'{path}': {error}") from None
