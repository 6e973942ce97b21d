"""Our JSON documents, read strictly: bundles, authorities, network profiles.

`Document` reads one JSON object field by field; whatever doesn't fit is a SetupError that names the file and
the field. Fields unknown here are left alone. This module never opens a file and never shows a secret's value.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import NoReturn

from ipop.errors import SetupError
from ipop.wording import shown

FORMAT_VERSION = 1
_PEM = re.compile(r"-----BEGIN ([A-Z ]{1,40})-----\n([A-Za-z0-9+/=\n]+)\n-----END \1-----\n?")
# RFC 8410, section 7: an Ed25519 private key in PKCS #8 is this and the 32-byte seed.
_PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
SEED_BYTES = 32


class Document:
    """One JSON object. `where` is the file, `path` the object's place in it."""

    def __init__(self, where: str, path: str, fields: dict[str, object]) -> None:
        self._where, self._path, self._fields = where, path, fields

    @classmethod
    def parse(cls, text: str, where: str, kind: str) -> Document:
        """A whole document of one `kind`, of a version we read."""
        if not text.strip():
            raise SetupError(f"{where}: the file is empty: copy it again")
        try:
            fields = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            if _begins_as_ours(text):
                raise SetupError(f"{where}: the file is damaged or cut short: copy it again") from None
            reason = "too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
            raise SetupError(f"{where}: not {_article(kind)}: not readable as JSON ({reason})") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("format"), str):
            raise SetupError(f"{where}: not {_article(kind)}: it has no field 'format'")
        if fields["format"] != kind:
            raise SetupError(f"{where}: not {_article(kind)} but {_article(fields['format'][:40])}")
        document = cls(where, "", fields)
        version = document.integer("version", 1, 1 << 31)
        if version != FORMAT_VERSION:
            raise SetupError(f"{where}: written by a newer p2pvpn (format version {version}): update p2pvpn here")
        return document

    @property
    def names(self) -> list[str]:
        return list(self._fields)

    def refuse(self, name: str, reason: str) -> NoReturn:
        raise SetupError(f"{self._where}: field '{self._path}{_shown(name)}': {reason}")

    def document(self, name: str) -> Document:
        value = self._field(name)
        if not isinstance(value, dict):
            self.refuse(name, "not an object")
        return Document(self._where, f"{self._path}{_shown(name)}.", value)

    def text(self, name: str) -> str:
        value = self._field(name)
        if not isinstance(value, str):
            self.refuse(name, "not a text")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._field(name)
        if not isinstance(value, list) or not all(isinstance(element, str) for element in value):
            self.refuse(name, "not a list of texts")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._field(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(name, f"not a whole number from {low} to {high}")
        return value

    def octets(self, name: str, size_bytes: int) -> bytes:
        """Bytes written as lower-case hex digits."""
        value = self.text(name)
        if not re.fullmatch(rf"[0-9a-f]{{{2 * size_bytes}}}", value):
            self.refuse(name, f"not {2 * size_bytes} hex digits")
        return bytes.fromhex(value)

    def pem(self, name: str, label: str) -> bytes:
        """The DER inside a PEM text with this label."""
        match = _PEM.fullmatch(self.text(name))
        if match is None or match[1] != label:
            self.refuse(name, f"not a PEM text of a {label}")
        try:
            return base64.b64decode(match[2].replace("\n", ""), validate=True)
        except binascii.Error:
            self.refuse(name, f"a damaged PEM text of a {label}")

    def seed(self, name: str) -> bytes:
        """The 32-byte seed of an Ed25519 private key, written as PKCS #8 in PEM."""
        der = self.pem(name, "PRIVATE KEY")
        if len(der) != len(_PKCS8_ED25519) + SEED_BYTES or not der.startswith(_PKCS8_ED25519):
            self.refuse(name, "not an Ed25519 private key")
        return der[len(_PKCS8_ED25519) :]

    def _field(self, name: str) -> object:
        if name not in self._fields:
            self.refuse(name, "missing")
        return self._fields[name]


def write(kind: str, fields: dict[str, object]) -> str:
    """The text that `Document.parse` reads."""
    return json.dumps({"format": kind, "version": FORMAT_VERSION, **fields}, indent=2) + "\n"


def pem_text(label: str, der: bytes) -> str:
    digits = base64.b64encode(der).decode()
    lines = [digits[at : at + 64] for at in range(0, len(digits), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def seed_text(seed: bytes) -> str:
    return pem_text("PRIVATE KEY", _PKCS8_ED25519 + seed)


def _begins_as_ours(text: str) -> bool:
    """Whether the text, or as much of it as there is, begins as `write` begins."""
    beginning = '{"format":"p2pvpn'
    found = "".join(text[:64].split())[: len(beginning)]
    return bool(found) and beginning.startswith(found)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _shown(name: str) -> str:
    """A field's name from a file, fit for one line of a terminal."""
    return name if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) else repr(shown(name))


def _article(kind: str) -> str:
    shown = kind if kind.isprintable() else repr(kind)
    return f"an '{shown}'" if shown[:1] in ("a", "e", "i", "o", "u") else f"a '{shown}'"
