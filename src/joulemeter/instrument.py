"""The static view of a script's calls: as JSON, as a table, as a source with its gates written out."""

from __future__ import annotations

import bisect
import io
import json
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from joulemeter import notebook
from joulemeter.errors import UsageError
from joulemeter.frameworks import static, written


class Script(NamedTuple):
    """A script's text; a notebook's is that of its code cells, one after another."""

    path: Path
    source: str
    cells: tuple[tuple[int, int], ...] = ()
    """Of a notebook: the line at which each cell begins, and the cell's number."""

    def cell(self, line: int) -> tuple[int, int]:
        """The number of a notebook's cell and the line in it, of a line of ``source``."""
        first, number = self.cells[bisect.bisect_right(self.cells, (line, 1 << 60)) - 1]
        return number, line - first + 1


def read(path: Path, say: Callable[[str], None]) -> Script:
    """A script, by its encoding cookie, or a notebook; raises UsageError where there is none or it is no
    Python. ``say`` takes a line for each magic of a notebook, which is left out."""
    try:
        if path.suffix == ".ipynb":
            return read_notebook(path, say)
        data = path.read_bytes()
        if zipfile.is_zipfile(path):
            raise UsageError(f"{path}: a zip archive", "one of the sources in it, after unzipping")
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = io.TextIOWrapper(io.BytesIO(data), encoding, newline=None).read().removeprefix("\ufeff")
        check(source, str(path), f"python {path}")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "the path of a Python script") from error
    except SyntaxError as error:  # the encoding's: it has no line
        raise UsageError(
            f"{path}: {error.msg}", "a Python script with its encoding in its first lines"
        ) from error
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(
            f"{path}: {error}", "a Python script with its encoding in its first lines"
        ) from error
    return Script(path, source)


def read_notebook(path: Path, say: Callable[[str], None]) -> Script:
    """The code cells of a notebook as one source."""
    text, cells = "", []
    for cell in notebook.read(str(path), say):
        check(cell.source, f"{path}, cell {cell.number}", f"the notebook itself, cell {cell.number}")
        cells.append((text.count("\n") + 1, cell.number))
        text += cell.source.removesuffix("\n") + "\n"
    return Script(path, text, tuple(cells))


def check(source: str, name: str, remedy: str) -> None:
    """Raises UsageError where ``source`` does not compile."""
    try:
        compile(source, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise UsageError(f"{name}, line {error.lineno}: {error.msg}", remedy) from error
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"{name}: Python cannot compile it ({error})", remedy) from error


def as_json(script: Script) -> str:
    """``{"calls": […]}``, one entry for every call expression, in reading order. In a notebook each has its
    ``cell``, and lines are those in the cell."""
    return json.dumps({"calls": [entry(script, call) for call in calls(script)]}, indent=1)


def calls(script: Script) -> list[static.Call]:
    """The calls of a script; raises UsageError where it nests too deeply for that."""
    try:
        return static.calls(script.source)
    except RecursionError as error:
        raise too_deep(script) from error


def too_deep(script: Script) -> UsageError:
    """What is said of a source that Python itself just compiles."""
    return UsageError(
        f"{script.path}: its expressions nest too deeply to be instrumented",
        "shorter sums and chains of calls; joulemeter run runs it unmetered",
    )


def entry(script: Script, call: static.Call) -> dict[str, object]:
    """One call as JSON has it."""
    if not script.cells:
        return call._asdict()
    number, line = script.cell(call.line)
    return {"cell": number, **call._asdict(), "line": line, "end_line": script.cell(call.end_line)[1]}


def as_table(script: Script) -> str:
    """A line for each call, and a summary."""
    found = calls(script)
    lines = [
        f"{where(script, call.line)}:{call.column}: {call.text.splitlines()[0][:60]}"
        + f"  [{call.api or 'decided when it runs' if call.wrapped else call.reason}]"
        for call in found
    ]
    wrapped = sum(call.wrapped for call in found)
    named = sum(call.api is not None for call in found)
    return "\n".join(
        [*lines, f"{len(found)} calls, {wrapped} wrapped, {named} known by name before they run"]
    )


def where(script: Script, line: int) -> str:
    """The file and line of a line of ``source``, for people."""
    if not script.cells:
        return f"{script.path}:{line}"
    number, inside = script.cell(line)
    return f"{script.path}, cell {number}:{inside}"


def instrumented(script: Script) -> str:
    """The source with its gates written out; raises UsageError for a notebook, which is no Python source."""
    if script.cells:
        remedy = f"jupyter nbconvert --to script {script.path}, or joulemeter run {script.path}"
        raise UsageError(f"{script.path}: a notebook has no instrumented source", remedy)
    try:
        return written.written(script.source, str(script.path))
    except RecursionError as error:
        raise too_deep(script) from error


def as_diff(script: Script) -> str:
    """What instrumenting changes, as a unified diff."""
    import difflib

    before, after = script.source, instrumented(script)
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, str(script.path), f"{script.path} (instrumented)"))


def write(script: Script, output: Path, force: bool = False) -> None:
    """Writes the instrumented source in the encoding that it names; raises UsageError where the output is
    in the way or cannot be written."""
    text = instrumented(script)
    encoding, _ = tokenize.detect_encoding(io.BytesIO(text.encode("latin-1", "replace")).readline)
    try:
        if output.exists() and (output.samefile(script.path) or not force):
            raise UsageError(f"{output} exists", "--force, or another name")
        output.write_bytes(text.encode("utf-8" if encoding == "utf-8-sig" else encoding))
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}", "-o with a writable place") from error
