"""Which sources are rewritten: the program, its own modules, and the packages it names.

A finder stands before Python's and hands over a loader that compiles rewritten code; libraries are left
to Python. A source that cannot be rewritten runs as it is, and is listed with the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from joulemeter.frameworks import codecache, tracing
from joulemeter.frameworks.calls import Judge
from joulemeter.frameworks.rewrite import Compiled, Place, compiled, fill

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

    def code(self, source: bytes | str, filename: str, flags: int = 0, cached: bool = False) -> CodeType:
        """``source`` compiled with gates; without, where that cannot be. Raises what ``compile`` raises."""
        try:
            made = (codecache.compiled if cached else compiled)(source, filename, flags)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            plain: CodeType = compile(source, filename, "exec", flags, dont_inherit=True)
            self.unmetered[filename] = f"{type(error).__name__}: {error}"
            self._say(f"joulemeter: {filename} runs unmetered: {self.unmetered[filename]}")
            return plain
        tracing.sources[filename] = (source, flags)
        return self.fill(made, filename)

    def cell(self, source: str, filename: str, notebook: str, number: int) -> CodeType:
        """A notebook cell's code: its sites stand in ``notebook``, at the cell's number for a line."""
        made = compiled(source, filename)
        tracing.sources[filename] = (source, 0)

        def place(at: Place) -> tuple[Any, ...]:
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
            return self._gates.gate(made.places[index].kind, locate(made.places[index]))

        return fill(made.code, gate)


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
        if spec is not None and type(spec.loader) is SourceFileLoader and self.owns(name, spec):
            spec.loader = Loader(spec.loader.name, str(spec.loader.path), self._sources)
        return spec if spec is not None and isinstance(spec.loader, Loader) else None

    def owns(self, name: str, spec: ModuleSpec) -> bool:
        """Whether a module is the program's, or of a package that it names."""
        if name.partition(".")[0] in self._names:
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
        return self._sources.code(self.get_data(path), path, cached=not sys.dont_write_bytecode)
