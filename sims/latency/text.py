"""Text files of numbers, perhaps gzipped, read line by line; what is wrong with one is said with its path and line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from math import isfinite


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file that may be gzipped. Raises ValueError when it is neither."""
    with io.FileIO(path) as file, io.BufferedReader(file) as plain:
        zipped = plain.peek(2)[:2] == b"\x1f\x8b"
        try:
            with io.TextIOWrapper(gzip.GzipFile(fileobj=plain) if zipped else plain, encoding="ascii") as text:
                yield from enumerate(text, start=1)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text file") from None


def number(word: str, path: str, line: int) -> float:
    """A finite number. Raises ValueError."""
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{path}, line {line}: '{word[:40]}' is not a number") from None
    if not isfinite(value):
        raise ValueError(f"{path}, line {line}: '{word}' is not a finite number")
    return value


def integer(word: str, path: str, line: int) -> int:
    """A whole number. Raises ValueError."""
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{path}, line {line}: '{word[:40]}' is not a whole number") from None
