"""A TOML text that knows where its keys stand: whoever reads it refuses what is wrong in one line that names the file,
the line, the key and what to do.

A place in the document is a path of keys, with numbers for the entries of arrays: ("workload", 0, "count"). It never
opens a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

Where = tuple[str | int, ...]

# A word of a dotted key: bare, or between quotes.
_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_WORD}(?:\s*\.\s*{_WORD})*"
_HEADER = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]\s*(?:#.*)?$")
_ENTRY_HEADER = re.compile(rf"\s*\[\[\s*({_DOTTED})\s*\]\]\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=(.*)$")
_AT = re.compile(r" \(at line (\d+), column \d+\)$")  # as tomllib ends its errors
MAX_SHOWN = 60  # characters of a line that is no TOML

_STRING = re.compile(r"""("{3}|'{3}|"(?:\\.|[^"\\])*"|'[^']*'|#.*$)""")


class TomlSource:
    """One text. `error` is what `refuse` raises, `file` what errors call the text."""

    def __init__(self, text: str, file: str, error: type[Exception]) -> None:
        self.text, self.file = text, file
        self._error = error
        self._lines = dict(_places(text.splitlines()))
        self._origins: dict[Where, str] = {}

    def document(self) -> dict[str, Any]:
        """The text, parsed. Raises the source's error where it is no TOML."""
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise self._error(self._told(str(error))) from None
        except RecursionError:
            raise self._error(f"{self.file}: arrays or tables are too deep inside each other") from None

    def _told(self, error: str) -> str:
        """A parser's complaint, with the line in front and what stands there behind."""
        lines = self.text.splitlines()
        if (match := _AT.search(error)) is None or not 1 <= int(match[1]) <= len(lines):
            return f"{self.file}: {error}"
        number = int(match[1])
        return f"{self.file}, line {number}: {error[: match.start()]}: {lines[number - 1].strip()[:MAX_SHOWN]}"

    def comes_from(self, where: Where, origin: str) -> None:
        """The value there is not the text's own: errors about it name `origin` instead of a line."""
        self._origins[where] = origin

    def refuse(self, where: Where, why: str) -> NoReturn:
        """Raises the source's error, with the place in front."""
        key = ".".join(str(word) for word in where)
        raise self._error(f"{self.place(where)}: {key}: {why}" if where else f"{self.place(where)}: {why}")

    def refuse_at(self, origin: str, why: str) -> NoReturn:
        """As `refuse`, of what is not in the text."""
        raise self._error(f"{origin}: {why}")

    def place(self, where: Where) -> str:
        """The file and, as far as it can be told, the line, in words."""
        for length in range(len(where), 0, -1):
            if origin := self._origins.get(where[:length]):
                return origin
        line = self.line(where)
        return f"{self.file}, line {line}" if line else self.file

    def line(self, where: Where) -> int | None:
        """The line of a key; of the nearest table around it when it isn't there or is written in an unusual way."""
        for length in range(len(where), 0, -1):
            if line := self._lines.get(where[:length]):
                return line
        return None

    def known(self, where: Where, table: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Refuses the first key of `table` that is none of `keys`."""
        for key in table:
            if key not in keys:
                self.refuse((*where, key), f"no such key{suggestion(key, keys)}; there are: {', '.join(keys)}")

    def table(self, where: Where, value: Any, example: str) -> dict[str, Any]:
        """`value`, which must be a table."""
        if not isinstance(value, dict):
            self.refuse(where, f"this must be a table, such as {example}")
        return value


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """The known word that was probably meant, as the end of a sentence; nothing when none is similar."""
    close = get_close_matches(wrong, known, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _places(lines: Sequence[str]) -> Iterator[tuple[Where, int]]:
    """Where tables and keys begin; tomllib doesn't say. What a value spreads over several lines is its first line's."""
    table: Where = ()
    entries: dict[Where, int] = {}  # of each array of tables, how many entries it has so far
    depth, quotes = 0, ""
    for number, line in enumerate(lines, 1):
        if depth or quotes:
            depth, quotes = _open(line, depth, quotes)
        elif header := _ENTRY_HEADER.match(line):
            path = _inside(_words(header[1]), entries, last=False)
            entries[path] = entries.get(path, -1) + 1
            table = (*path, entries[path])
            yield table, number
            if entries[path] == 0:
                yield path, number
        elif header := _HEADER.match(line):
            table = _inside(_words(header[1]), entries, last=True)
            yield table, number
        elif key := _KEY.match(line):
            words = _words(key[1])
            for length in range(1, len(words) + 1):
                yield (*table, *words[:length]), number
            depth, quotes = _open(key[2], 0, "")
            for inner in re.findall(rf"[{{,]\s*({_DOTTED})\s*=", key[2]):
                yield (*table, *words, *_words(inner)), number


def _inside(words: Where, entries: Mapping[Where, int], last: bool) -> Where:
    """A header's path, with the number of the present entry after the name of every array of tables."""
    path: Where = ()
    for place, word in enumerate(words):
        path = (*path, word)
        if path in entries and (last or place < len(words) - 1):
            path = (*path, entries[path])
    return path


def _words(dotted: str) -> Where:
    return tuple(word.strip("\"'") for word in re.findall(_WORD, dotted))


def _open(text: str, depth: int, quotes: str) -> tuple[int, str]:
    """How many brackets, and which triple quotes, are still open after `text`."""
    while quotes:
        end = text.find(quotes)
        if end < 0:
            return depth, quotes
        text, quotes = text[end + 3 :], ""
        return _open(text, depth, quotes)
    at = 0
    for match in _STRING.finditer(text):
        if match.start() < at:
            continue
        depth += _balance(text[at : match.start()])
        if match[1] in ('"""', "'''"):
            return _open(text[match.end() :], depth, match[1])
        at = match.end()
    return depth + _balance(text[at:]), ""


def _balance(text: str) -> int:
    return sum(text.count(opening) for opening in "[{") - sum(text.count(closing) for closing in "]}")
