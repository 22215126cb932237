"""Notebooks as programs: the code cells of an ``.ipynb``, in order."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from joulemeter.errors import UsageError


class Cell(NamedTuple):
    """One code cell; cells of every kind are counted from 1."""

    number: int
    source: str


def read(path: str, say: Callable[[str], None]) -> list[Cell]:
    """The code cells of a notebook.

    Magics (``%matplotlib``) and shell lines (``!pip``) are for the notebook's own program: they are
    left out, each with a line to ``say``. Raises OSError where the file cannot be read, UsageError
    where it is not a notebook.
    """
    with open(path, encoding="utf-8") as file:
        try:
            cells = json.load(file)["cells"]
            found = [Cell(number, text(cell["source"])) for number, cell in numbered(cells)]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} is not a notebook of version 4 ({type(error).__name__}: {error})",
                f"jupyter nbconvert --to notebook {path}, or save it again",
            ) from error
    return [Cell(cell.number, without_magics(cell, path, say)) for cell in found]


def numbered(cells: list[Any]) -> list[tuple[int, Any]]:
    return [(number, cell) for number, cell in enumerate(cells, 1) if cell["cell_type"] == "code"]


def text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def without_magics(cell: Cell, path: str, say: Callable[[str], None]) -> str:
    """A cell's source with a ``pass`` for each magic, so that lines keep their numbers."""
    lines = cell.source.splitlines(keepends=True)
    if lines and lines[0].startswith("%%"):
        say(f"joulemeter: {path}, cell {cell.number}: {lines[0].strip()} is left out, and the cell with it")
        return ""
    for index, line in enumerate(lines):
        bare = line.lstrip()
        if bare.startswith(("%", "!")) and not continues(lines[:index]):
            say(f"joulemeter: {path}, cell {cell.number}: {bare.strip()} is left out")
            lines[index] = line[: len(line) - len(bare)] + "pass\n"
    return "".join(lines)


def continues(lines: list[str]) -> bool:
    """Whether the next line goes on with an expression that these lines have left open."""
    import io
    import tokenize

    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
            depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.string, 0)
    except tokenize.TokenError:
        return True
    except SyntaxError:
        return False
    return depth > 0
