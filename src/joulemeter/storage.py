"""Where a data set lies: a folder of this machine, or any URL that fsspec knows (``s3://``, ``gcs://``, ``sftp://``).

Both hold files by name that appear whole or not at all, and can be held by one writer at a time. Options of a
store (keys, endpoints) are fsspec's own: its configuration files and the store's environment variables.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from joulemeter.errors import DatasetError, UsageError

Where = str | Path
"""A path, or a URL as a string."""
BEAT_S = 5.0
"""How often whoever holds a store says so."""
PATIENCE_BEATS = 4
"""A hold that nobody renewed for so many beats is of somebody who died."""
WHOLE_PUTS = frozenset(
    ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "tos", "obs", "memory")
)
"""Protocols whose objects appear with their last byte; elsewhere a file is written beside, and moved."""


class Hold(Protocol):
    """That this process alone writes here."""

    def check(self) -> None:
        """Raises DatasetError where somebody else has taken over."""


class Place(Protocol):
    """Files by name. What ``put`` writes appears whole or not at all."""

    def exists(self) -> bool:
        """Whether anything is here."""

    def names(self) -> list[str]:
        """Names of the files here, sorted."""

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError where there is none."""

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The contents of many, in their order."""

    def put(self, name: str, content: bytes) -> Where:
        """Writes a file, in the place of one of that name; returns where it is."""

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

    def held(self, name: str) -> AbstractContextManager[Hold]:
        """Holds this place under ``name``; raises BlockingIOError where somebody else does."""


def is_url(where: Where) -> bool:
    """Whether ``where`` is an address and not a path."""
    return isinstance(where, str) and ("://" in where or "::" in where)


def place(where: Where) -> Place:
    """The folder or store at ``where``. Raises UsageError for an address that fsspec cannot serve here."""
    if not is_url(where):
        return Folder(Path(where))
    try:
        import fsspec

        files, root = fsspec.url_to_fs(str(where))
    except (ImportError, ValueError) as error:
        remedy = "pip install 'joulemeter[sweep]' and the store's package"
        raise UsageError(f"{where}: {error}", remedy) from None
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    if protocols & {"file", "local"}:
        return Folder(Path(root))
    return Store(files, root.rstrip("/"), str(where).rstrip("/"), bool(protocols & WHOLE_PUTS))


def absolute(where: Where) -> Where:
    """``where`` as it is called from any working directory."""
    return where if is_url(where) else Path(where).absolute()


def name_of(where: Where) -> str:
    """The last part of ``where``."""
    return str(where).rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a file system."""

    path: Path

    def exists(self) -> bool:
        """Whether the path is there; unfinished files alone are nothing."""
        return self.path.exists() and (
            not self.path.is_dir() or any(each.suffix != ".partial" for each in self.path.iterdir())
        )

    def names(self) -> list[str]:
        """Names of the files here, sorted."""
        return sorted(os.listdir(self.path)) if self.path.is_dir() else []

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.path / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The contents of many, in their order."""
        return map(self.read, names)

    def put(self, name: str, content: bytes) -> Path:
        """Writes beside, and renames."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / name
        partial = path.with_name(f"{name}.{secrets.token_hex(4)}.partial")
        # The bytes must be on disk before the name is: a rename alone may outlive its content in a power cut.
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return path

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def held(self, name: str) -> Iterator[Hold]:
        """A lock of the kernel's: it ends with the process that holds it, however that ends."""
        with (self.path / name).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield _Locked()


class _Locked:
    """A lock of the kernel's cannot be lost."""

    def check(self) -> None:
        """Nothing to check."""


@dataclass(frozen=True)
class Store:
    """Files at a URL. ``whole_puts``: a file that is being written is not there until it is whole."""

    files: Any
    root: str
    url: str
    whole_puts: bool

    def exists(self) -> bool:
        """Whether anything lies under the URL."""
        return bool(self.names())

    def names(self) -> list[str]:
        """Names of the files here, sorted; asked for anew, others may have written."""
        with self._answering():
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self.root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({name_of(each) for each in found if each.rstrip("/") != self.root} - {""})

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with self._answering():
            self.files.invalidate_cache()
            return bool(self.files.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._answering():
            self.files.invalidate_cache()
            return bytes(self.files.cat_file(self._path(name)))

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """The contents of many, in their order; stores that can are asked for many at a time."""
        for first in range(0, len(names), 1000):
            paths = [self._path(name) for name in names[first : first + 1000]]
            with self._answering():
                found = self.files.cat(paths)
            yield from (bytes(found[path]) for path in paths)

    def put(self, name: str, content: bytes) -> str:
        """One put, or written beside and moved where a put shows its beginnings."""
        try:
            with self._answering():
                self._put(self._path(name), content)
        except FileNotFoundError as error:
            raise DatasetError(f"{self.url}: the store refuses ({error})", "make the bucket first") from None
        return f"{self.url}/{name}"

    def _put(self, path: str, content: bytes) -> None:
        if self.whole_puts:
            self.files.pipe_file(path, content)
            return
        self.files.makedirs(self.root, exist_ok=True)
        partial = f"{path}.{secrets.token_hex(4)}.partial"
        self.files.pipe_file(partial, content)
        self.files.mv(partial, path)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._answering():
            try:
                self.files.rm_file(self._path(name))
            except FileNotFoundError:
                return

    @contextmanager
    def held(self, name: str) -> Iterator[Hold]:
        """A file that is renewed every few seconds, for stores know no locks.

        Whoever finds one watches it for some beats: one that changes is held, one that does not is of
        somebody who died. Two that take over in the same second see by the file who was last. It keeps honest
        programs apart; it is no proof against a holder whose network stands still for longer than that.
        """
        beat = _Beat(self, name)
        beat.take()
        try:
            yield beat
        finally:
            beat.stop()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Whatever a store says of itself, in one line. Files that are not there stay FileNotFoundError."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, ValueError, TimeoutError) as error:
            raise DatasetError(
                f"{self.url}: the store refuses ({error})",
                "mend its credentials or the network, then the same command",
            ) from error


class _Beat:
    """One holder of a store: its token is in the file, with a count that a thread of its own moves on."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.token = secrets.token_hex(8)
        self.count = 0
        self.lost = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        """Takes the store, from a holder that is dead too; raises what tells of one that lives."""
        found = self._read()
        if found and not _dead(found):
            until = time.monotonic() + PATIENCE_BEATS * BEAT_S
            while time.monotonic() < until:
                time.sleep(BEAT_S / 2)
                now = self._read()
                if not now:
                    break
                if now != found:
                    raise BlockingIOError
        self._write()
        time.sleep(BEAT_S / 5)
        if self._read().get("token") != self.token:
            raise BlockingIOError
        self.thread.start()

    def check(self) -> None:
        """Raises DatasetError where another holder's token is in the file."""
        if self.lost:
            raise DatasetError(f"{self.store.url}: another sweep has taken over here", "let that one finish")

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()
        if not self.lost:
            self.store.remove(self.name)

    def _renew(self) -> None:
        while not self.ended.wait(BEAT_S):
            try:
                found = self._read()
                self.lost = bool(found) and found.get("token") != self.token
                if self.lost:
                    return
                self._write()
            except DatasetError:
                continue  # a store that does not answer now may do so at the next beat

    def _write(self) -> None:
        self.count += 1
        said = {"token": self.token, "count": self.count, "host": socket.gethostname(), "pid": os.getpid()}
        self.store.put(self.name, json.dumps({**said, "boot": _boot()}).encode())

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.store.read(self.name))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine, as it runs now, and is gone."""
    if holder.get("host") != socket.gethostname() or holder.get("boot") != _boot():
        return False
    return not Path(f"/proc/{holder.get('pid')}").exists()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
