"""Which sources are rewritten: the program, its own modules, and the packages it names.

A finder stands before Python's and hands over a loader that compiles rewritten code; libraries are left
to Python. A source that cannot be rewritten runs as it is, and is listed with the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib._bootstrap import _call_with_frames_removed  # type: ignore[attr-defined]
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any
from zipimport import zipimporter

from joulemeter.frameworks import codecache, tracing
from joulemeter.frameworks.calls import Judge
from joulemeter.frameworks.rewrite import Compiled, Place, fill
from joulemeter.frameworks.rewrite import compiled as compile_rewritten

FOREIGN = ("site-packages", "dist-packages")


class Sources:
    """Turns sources into code whose calls pass gates."""

    def __init__(self, judge: Judge, gates: Any, say: Callable[[str], None]) -> None:
        """``gates`` makes gates (``gate(kind, place)``) and ``forget``s; ``say`` takes lines for the user."""
        self._judge = judge
        self._gates = gates
        self._say = say
        self.unmetered: dict[str, str] = {}
        """Files that run as they are, each with the reason."""

    def code(self, source: bytes | str, filename: str) -> CodeType:
        """The main program's code, with gates where that can be. Raises what ``compile`` raises."""
        made = self.rewritten(source, filename, main=True)
        if made is None:
            made = compile(source, filename, "exec", dont_inherit=True)
            self.tell(filename)
        return made

    def tell(self, filename: str) -> None:
        """Says that a file runs as it is, and why."""
        self._say(f"joulemeter: {filename} runs unmetered: {self.unmetered[filename]}")

    def rewritten(self, source: bytes | str, filename: str, main: bool = False) -> CodeType | None:
        """``source`` compiled with gates; None where that cannot be, with the reason in ``unmetered``."""
        try:
            made = compiled(source, filename, main)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            deep = "its expressions nest too deeply: " if isinstance(error, RecursionError) else ""
            self.unmetered[filename] = f"{deep}{type(error).__name__}: {error}"
            return None
        tracing.sources[filename] = (source, 0)
        return self.fill(made, filename)

    def cell(self, source: str, filename: str, notebook: str, number: int) -> CodeType:
        """A notebook cell's code: its sites stand in ``notebook``, at the cell's number for a line."""
        made = compiled(source, filename, main=True)
        tracing.sources[filename] = (source, 0)

        def place(at: Place) -> tuple[Any, ...]:
            """A place in a notebook, by cell and line of the cell."""
            return notebook, number, at.column, f"{at.function or '<cell>'}, line {at.line}"

        return self.fill(made, filename, place)

    def fill(
        self, made: Compiled, filename: str, place: Callable[[Place], tuple[Any, ...]] | None = None
    ) -> CodeType:
        """Puts the gates into compiled code; ``place`` says where each stands, if not in ``filename``."""
        if self._judge.imported(made.imports):
            self._gates.forget()
        locate = place or (lambda at: (filename, at.line, at.column, at.function))

        def gate(index: int) -> Any:
            """The gate of place ``index`` of the file."""
            return self._gates.gate(made.places[index].kind, locate(made.places[index]))

        return fill(made.code, gate)


def compiled(source: bytes | str, filename: str, main: bool) -> Compiled:
    """A rewritten source, from the cache unless Python was told to leave nothing behind, or it was typed."""
    if sys.dont_write_bytecode or filename == "<string>":
        return compile_rewritten(source, filename)
    return codecache.compiled(source, filename, main=main)


class Finder:
    """Finds the modules that are the program's own: under its folders, and not in a library folder."""

    def __init__(self, sources: Sources, folders: Sequence[str], names: Sequence[str] = ()) -> None:
        self._sources = sources
        self._folders = tuple(os.path.realpath(folder) + os.sep for folder in folders)
        self._names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> Any:
        """Python's own spec with a loader that rewrites; None for what is not the program's."""
        if name.partition(".")[0] in NEVER:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not self.owns(name, spec):
            return None
        if type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, str(spec.loader.path), self._sources)
        elif isinstance(spec.loader, zipimporter):
            spec.loader = ZipLoader(spec.loader.archive + os.sep + spec.loader.prefix, self._sources)
        else:
            return None
        return spec

    def owns(self, name: str, spec: ModuleSpec) -> bool:
        """Whether a module is the program's, or of a package that it names."""
        if name in self._names or name.partition(".")[0] in self._names:
            return True
        where = os.path.realpath(str(spec.origin))
        inside = next((where[len(folder) :] for folder in self._folders if where.startswith(folder)), None)
        return (
            inside is not None
            and not any(part in FOREIGN for part in inside.split(os.sep))
            and not own_library(where)
        )


NEVER = frozenset({"joulemeter"})


def own_library(where: str) -> bool:
    """Whether a file is Python's own or a library's, though it lies under the program's folder."""
    return where.startswith(STANDARD) or any(f"{os.sep}{folder}{os.sep}" in where for folder in FOREIGN)


STANDARD = os.path.dirname(os.path.realpath(os.__file__)) + os.sep


class Loader(SourceFileLoader):
    """Python's loader of source files, but the code is rewritten; bytecode files are left alone."""

    def __init__(self, name: str, path: str, sources: Sources) -> None:
        super().__init__(name, path)
        self._sources = sources

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, with gates."""
        path = self.get_filename(fullname)
        source = self.get_data(path)
        made = self._sources.rewritten(source, path)
        if made is not None:
            return made
        plain: CodeType = _call_with_frames_removed(compile, source, path, "exec", dont_inherit=True)
        self._sources.tell(path)
        return plain


class ZipLoader(zipimporter):
    """Python's loader of modules in a zip file, but the code is rewritten where its source is there."""

    def __init__(self, path: str, sources: Sources) -> None:
        super().__init__(path.rstrip(os.sep))
        self._sources = sources

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, with gates."""
        source, path = self.get_source(fullname), self.get_filename(fullname)
        if source is None:
            return super().get_code(fullname)
        return self._sources.rewritten(source, path) or super().get_code(fullname)


def unseen(function: Any) -> None:
    """Python leaves the frames of its import machinery out of tracebacks; these are part of it."""
    machinery = SourceFileLoader.get_filename.__code__.co_filename
    function.__code__ = function.__code__.replace(co_filename=machinery)


unseen(Loader.get_code)
unseen(ZipLoader.get_code)
