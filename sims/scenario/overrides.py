"""Other values for a scenario's keys, by dotted keys: those of [small] and [full], of a sweep, of the command line.

They are put into the document before it is read, so that they are checked as what stands in the file is; whoever
refuses one names where it came from. An entry of an array is named by its `name`, or else its `kind`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sims.toml_source import TomlSource, Where, suggestion

ARRAYS: tuple[Where, ...] = (("workload",), ("fault",), ("probe",))
SIZES = ("small", "full")


def leaves(table: Mapping[str, Any], where: Where) -> Iterator[tuple[str, tuple[Any, Where]]]:
    """The dotted key, value and place of everything that is no table."""
    for key, value in table.items():
        if isinstance(value, dict):
            for below, found in leaves(value, (*where, key)):
                yield f"{key}.{below}", found
        else:
            yield key, (value, (*where, key))


def put(source: TomlSource, document: dict[str, Any], dotted: str, value: Any, origin: str) -> None:
    """Put a value where a dotted key says. Later errors about it name `origin`, and so do those about tables that
    are made for it. Raises the source's error."""
    where: Where = ()
    at: Any = document
    *words, last = dotted.split(".")
    if dotted.split(".", maxsplit=1)[0] in ("sweep", *SIZES):
        source.refuse_at(origin, f"{dotted}: this can't be set: write sweep.KEY=[value, ...] for a sweep")
    for word in words:
        if isinstance(at, list):
            at, where = _entry(source, at, where, word, dotted, origin)
        elif isinstance(at, dict):
            where = (*where, word)
            if word not in at:
                at[word] = [] if where in ARRAYS else {}
                source.comes_from(where, origin)
            at = at[word]
        else:
            source.refuse_at(origin, f"{dotted}: {'.'.join(map(str, where))} is no table")
    if not isinstance(at, dict):
        source.refuse_at(origin, f"{dotted}: {'.'.join(map(str, where))} is no table")
    at[last] = value
    source.comes_from((*where, last), origin)


def _entry(
    source: TomlSource, entries: Sequence[Any], where: Where, word: str, dotted: str, origin: str
) -> tuple[Any, Where]:
    names = [str(entry.get("name", entry.get("kind"))) for entry in entries if isinstance(entry, dict)]
    if word not in names:
        listed = ", ".join(names) or "none"
        source.refuse_at(
            origin, f"{dotted}: there is no {where[-1]} '{word}'{suggestion(word, names)}; there are: {listed}"
        )
    return entries[names.index(word)], (*where, names.index(word))
