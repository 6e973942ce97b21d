"""A network's files on disk: DIR/NET.ca (private), DIR/NET.network (public), and nodes' bundles. † (a shell)

Whatever instant the process is killed at, the ledger is whole, and no name or address that a bundle holds is
ever given to another: a file is written aside, flushed and renamed into place, and the ledger is on disk before
the bundle is. NET.ca itself is the lock under which the next address is chosen. Certificates are made in
`ipop.authority`; this module never prints.
"""

from __future__ import annotations

import fcntl
import glob
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from dht.host import Rng
from ipop.authority import (
    YEAR_S,
    Authority,
    address_from_text,
    check_group_name,
    check_node_name,
    create_authority,
    subnet_from_text,
)
from ipop.bundle import BUNDLE_FORMAT, Bundle, profile_text
from ipop.document import Document, write
from ipop.errors import SetupError

SECRET_MODE, PUBLIC_MODE = 0o600, 0o644
MAX_BUNDLE_BYTES = 1 << 16
NOTICE_FORMAT = "p2pvpn group notice"
MAX_AUTHORITY_BYTES = 1 << 30  # About 150 bytes a node.
LOCK_PATIENCE_S = 60.0
LOCK_RETRY_S = 0.02
LEFTOVER_S = 600.0  # Nobody takes so long to write one file.

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """Where a network's two files are."""

    authority: Path
    profile: Path


def init(name: str, subnet: str, directory: Path, now: float | None = None, rng: Rng | None = None) -> NetworkFiles:
    """Make a network: both its files, in `directory`, which is made when it isn't there. Raises SetupError.

    Files that are there already are never replaced. After an init that was killed between the two files, the
    same init again finishes it.
    """
    authority = create_authority(name, subnet_from_text(subnet), _now(now), rng or SystemRandom())
    files = NetworkFiles(directory / f"{name}.ca", directory / f"{name}.network")
    with _failures_named(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if files.authority.exists():
        with _locked(files.authority) as (existing, _):
            if files.profile.exists() or existing.network.subnet != authority.network.subnet:
                raise SetupError(
                    f"{files.authority}: the network '{name}' ({existing.network.subnet}) is there already:"
                    " choose another name or --dir"
                )
            _replace(files.profile, profile_text(existing.network), PUBLIC_MODE)
        return files
    if files.profile.exists():
        raise SetupError(f"{files.profile}: there already, without its {name}.ca: move it away or choose another --dir")
    # The private file first: it is the truth, and the public one follows from it.
    _create(files.authority, authority.to_text(), SECRET_MODE)
    _replace(files.profile, profile_text(authority.network), PUBLIC_MODE)
    return files


def issue(
    name: str,
    authority_file: Path,
    out: Path,
    address: str | None = None,
    lifetime_s: float = YEAR_S,
    now: float | None = None,
    rng: Rng | None = None,
    warn: Warn | None = None,
    groups: Collection[str] | None = None,
) -> Bundle:
    """Issue `name` a new certificate, and write its bundle to `out`. Raises SetupError. `groups`: which ones the
    certificate names from now on; None: those that it named before.

    `out` may be the bundle that this renews, or an empty file; anything else there is left alone.
    """
    check_node_name(name)
    wanted = None if address is None else address_from_text(address)
    # Through links, as a rename onto a link would replace the link.
    out = Path(os.path.realpath(out))
    with _locked(authority_file, warn) as (authority, save):
        _check_replaceable(out, name, authority)
        bundle = authority.issue(name, wanted, _now(now), rng or SystemRandom(), lifetime_s, groups)
        # This order: after a kill in between, a name is in the ledger without a bundle, and the same command
        # again gives that name the same address. The other order could give one address to two nodes.
        save(authority)
        _replace(out, bundle.to_text(), SECRET_MODE)
    return bundle


def rekey(group: str, authority_file: Path, out: Path, now: float | None = None, warn: Warn | None = None) -> list[str]:
    """Begin a new epoch of a group and write the notice of it to `out`, which must not exist; gives the nodes that are
    to be issued again, as their certificates name the group. Raises SetupError."""
    check_group_name(group)
    if out.exists():
        raise SetupError(f"{out}: there is something already: choose another file")
    with _locked(authority_file, warn) as (authority, save):
        notice = authority.rekey(group, _now(now))
        members = authority.members_of(group)
        # Bundles issued after a kill in between have the new epoch already, and still count if no notice comes.
        save(authority)
        _replace(out, write(NOTICE_FORMAT, {"group": group, "epoch": notice.epoch, "notice": notice.raw.hex()}), 0o644)
    return members


def read_notice(path: Path) -> bytes:
    """A notice from its file, not yet proven: for `Groups.heed`. Raises SetupError."""
    text, _ = _read(path, MAX_BUNDLE_BYTES)
    document = Document.parse(text, str(path), NOTICE_FORMAT)
    try:
        return bytes.fromhex(document.text("notice"))
    except ValueError:
        document.refuse("notice", "not hex digits")


def read_bundle(path: Path, warn: Warn | None = None) -> Bundle:
    """A node's bundle from its file. Raises SetupError; warns when others may read it."""
    text, readable_by_others = _read(path, MAX_BUNDLE_BYTES)
    bundle = Bundle.from_text(text, str(path))
    if warn is not None and readable_by_others:
        warn(_exposed(path, "the node's private key"))
    return bundle


def read_authority(path: Path, warn: Warn | None = None) -> Authority:
    """An authority from its file, to look at. Raises SetupError; warns when others may read it."""
    text, readable_by_others = _read(path, MAX_AUTHORITY_BYTES)
    authority = Authority.from_text(text, str(path))
    if warn is not None and readable_by_others:
        warn(_exposed(path, "the network's private key"))
    return authority


Save = Callable[[Authority], None]


@contextmanager
def _locked(path: Path, warn: Warn | None = None) -> Iterator[tuple[Authority, Save]]:
    """The authority in `path`, with nobody else between reading and `save`; the lock ends with the block."""
    path = Path(os.path.realpath(path))
    held = [_lock(path)]

    def save(authority: Authority) -> None:
        # The new file is locked before it takes the old one's name: nobody slips in between.
        held.append(_replace(path, authority.to_text(), SECRET_MODE, keep_locked=True))

    try:
        yield read_authority(path, warn), save
    finally:
        for descriptor in held:
            os.close(descriptor)


def _lock(path: Path) -> int:
    """A locked descriptor of the file that has this name now: while we waited, it may have been replaced."""
    patience_ends = time.monotonic() + LOCK_PATIENCE_S
    while True:
        with _failures_named(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > patience_ends:
                os.close(descriptor)
                raise SetupError(f"{path}: another p2pvpn command holds it: wait for that to end, or stop it") from None
            time.sleep(LOCK_RETRY_S)
        except FileNotFoundError:
            pass  # Replaced or removed since we opened it: open what is there now.
        except OSError as error:
            os.close(descriptor)
            raise SetupError(f"{path}: can't be locked: {error.strerror}") from None
        os.close(descriptor)


def _check_replaceable(out: Path, name: str, authority: Authority) -> None:
    """Refuses to write over anything but an older bundle of the same node, or an empty file."""
    with _failures_named(out):
        if not out.parent.is_dir():
            raise SetupError(f"{out}: there is no directory {out.parent}: make it first")
        try:
            status = out.lstat()
        except FileNotFoundError:
            return
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(f"{out}: not a file: choose another --out")
    if status.st_size == 0:
        return
    try:
        existing = read_bundle(out)
    except SetupError:
        raise SetupError(
            f"{out}: there already, and no {BUNDLE_FORMAT}: move it away or choose another --out"
        ) from None
    if existing.member.name != name:
        raise SetupError(f"{out}: the bundle of '{existing.member.name}': move it away or choose another --out")
    if existing.network != authority.network:
        raise SetupError(f"{out}: a bundle of another network: move it away or choose another --out")


def _create(path: Path, content: str, mode: int) -> None:
    """A new file, whole or not at all; SetupError when the name is taken."""
    with _failures_named(path):
        aside, descriptor = _write_aside(path, content, mode)
        os.close(descriptor)
        try:
            os.link(aside, path)  # Unlike rename, this never replaces a file.
        finally:
            os.unlink(aside)
        _flush_directory(path.parent)


def _replace(path: Path, content: str, mode: int, *, keep_locked: bool = False) -> int:
    """Old content or new, never part of it. Gives the new file's descriptor when it is kept locked, else -1."""
    with _failures_named(path):
        aside, descriptor = _write_aside(path, content, mode)
        try:
            if keep_locked:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.replace(aside, path)
            _flush_directory(path.parent)
        except BaseException:
            os.close(descriptor)
            aside.unlink(missing_ok=True)
            raise
    if keep_locked:
        return descriptor
    os.close(descriptor)
    return -1


def _write_aside(path: Path, content: str, mode: int) -> tuple[Path, int]:
    """The content, flushed, beside `path` under a name that nobody else uses."""
    _clear_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, SECRET_MODE)
    try:
        os.fchmod(descriptor, mode)
        _keep_owner(path, descriptor)
        remaining = memoryview(content.encode())
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        aside.unlink(missing_ok=True)
        raise
    return aside, descriptor


def _clear_leftovers(path: Path) -> None:
    """Removes what killed processes left of `path`: they hold keys. Younger ones may belong to a living process."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with suppress(OSError):
            if leftover.lstat().st_mtime < time.time() - LEFTOVER_S:
                leftover.unlink()


def _keep_owner(path: Path, descriptor: int) -> None:
    """Root renewing a user's file must leave it the user's."""
    if os.geteuid() == 0 and path.exists():
        status = path.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exposed(path: Path, secret: str) -> str:
    return f"{path}: others on this machine can read it, and it holds {secret}: chmod 600 {path}"


def _read(path: Path, max_bytes: int) -> tuple[str, bool]:
    """A file's text, and whether others on this machine may read it."""
    with _failures_named(path):
        # Without waiting: a pipe is refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise SetupError(f"{path}: not a file")
        with open(descriptor, "rb") as file:
            content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise SetupError(f"{path}: larger than {max_bytes} bytes: not one of p2pvpn's files")
    try:
        return content.decode(), bool(status.st_mode & 0o077)
    except UnicodeDecodeError:
        raise SetupError(f"{path}: not text: not one of p2pvpn's files") from None


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """The system's refusals, in a line that names the file."""
    try:
        yield
    except FileExistsError:
        raise SetupError(f"{path}: there already: move it away or choose another name") from None
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file or directory") from None
    except PermissionError:
        raise SetupError(f"{path}: no permission: run as the user it belongs to, or choose another place") from None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from None


def _now(now: float | None) -> float:
    return time.time() if now is None else now
