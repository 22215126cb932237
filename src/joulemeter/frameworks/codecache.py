"""Rewritten sources, the main program's too, kept in the user's cache folder, like bytecode.

An entry's name is a digest of source, file name, flags and versions, so it is never stale. Its content
is marshalled code that we wrote: it is read only from a folder and a file that belong to this user, and
that no one else may write. What cannot be cached is compiled again.

Python compiles a main program at every start, and warns at every start of what looks wrong in it. A main
program that earns such warnings is therefore not kept.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import marshal
import os
import stat
import sys
import warnings

from joulemeter.frameworks.rewrite import Compiled, Place
from joulemeter.frameworks.rewrite import compiled as compile_rewritten

VERSION = b"3"
"""Raised whenever the rewriting changes."""
MOST = 2048
"""Most entries kept; beyond, the oldest half is removed."""


def compiled(source: bytes | str, filename: str, flags: int = 0, main: bool = False) -> Compiled:
    """``rewrite.compiled`` from the cache, where it is there and may be trusted."""
    folder = cache_folder()
    if folder is None:
        return compile_rewritten(source, filename, flags)
    path = os.path.join(folder, digest(source, filename, flags, main))
    known = load(path)
    if known is None:
        known = (compile_silently if main else compile_rewritten)(source, filename, flags)
        if known is None:
            return compile_rewritten(source, filename, flags)
        store(path, known)
    return known


def compile_silently(source: bytes | str, filename: str, flags: int) -> Compiled | None:
    """``rewrite.compiled``, or None where Python would have a warning to say, whether it is shown or not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = compile_rewritten(source, filename, flags)
    return None if said else made


@functools.cache
def cache_folder() -> str | None:
    """The folder of the cache, made where it is missing; None where none can be trusted."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):
        return None
    path = os.path.join(home, "joulemeter", "code")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path if is_ours(os.lstat(path)) else None
    except OSError:
        return None


def is_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user may have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def digest(source: bytes | str, filename: str, flags: int, main: bool = False) -> str:
    """The name of an entry."""
    data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    parts = (
        VERSION,
        importlib.util.MAGIC_NUMBER,
        sys.version.encode(),
        filename.encode("utf-8", "surrogateescape"),
    )
    settings = b"%d %d %d" % (flags, sys.flags.optimize, main)
    whole = hashlib.blake2b(digest_size=20)
    for part in (*parts, settings, data):
        whole.update(b"%d " % len(part))
        whole.update(part)
    return whole.hexdigest()


def load(path: str) -> Compiled | None:
    """An entry, or None where there is none, or one that somebody else may have written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not is_ours(status):
            return None
        data = file.read()
    try:
        check, body = data[:20], data[20:]
        if hashlib.blake2b(body, digest_size=20).digest() != check:
            return None  # torn: its writer was killed, or the disk was full
        code, places, imports = marshal.loads(body)
    except (ValueError, EOFError, TypeError):
        return None
    return Compiled(code, tuple(Place(*place) for place in places), imports)


def store(path: str, made: Compiled) -> None:
    """Writes an entry in one move; a folder that cannot be written stays without."""
    body = marshal.dumps((made.code, tuple(tuple(place) for place in made.places), made.imports))
    temporary = f"{path}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(hashlib.blake2b(body, digest_size=20).digest() + body)
        os.replace(temporary, path)
        prune(os.path.dirname(path))
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)


def prune(folder: str) -> None:
    """Removes the oldest half of the entries when there are too many."""
    entries = list(os.scandir(folder))
    if len(entries) > MOST:
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in entries[: MOST // 2]:
            os.unlink(entry.path)
