"""The static view of a script's calls: as JSON, as a table, as a source with its gates written out."""

from __future__ import annotations

import io
import json
import tokenize
from pathlib import Path

from joulemeter.errors import UsageError
from joulemeter.frameworks import static, written


def read(path: Path) -> str:
    """A script's text, by its encoding cookie; raises UsageError where there is none or it is no Python."""
    try:
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = io.TextIOWrapper(io.BytesIO(data), encoding, newline=None).read().removeprefix("\ufeff")
        compile(source, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "the path of a Python script") from error
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}", f"python {path}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(
            f"{path}: {error}", "a Python script with its encoding in its first lines"
        ) from error
    return source


def as_json(source: str, path: Path) -> str:
    """``{"calls": […]}``, one entry for every call expression, in reading order."""
    return json.dumps({"calls": [call._asdict() for call in static.calls(source, str(path))]}, indent=1)


def as_table(source: str, path: Path) -> str:
    """A line for each call, and a summary."""
    calls = static.calls(source, str(path))
    lines = [
        f"{path}:{call.line}:{call.column}: {call.text.splitlines()[0][:60]}"
        + f"  [{call.api or 'decided when it runs' if call.wrapped else call.reason}]"
        for call in calls
    ]
    wrapped = sum(call.wrapped for call in calls)
    named = sum(call.api is not None for call in calls)
    return "\n".join(
        [*lines, f"{len(calls)} calls, {wrapped} wrapped, {named} known by name before they run"]
    )


def as_diff(source: str, path: Path) -> str:
    """What instrumenting changes, as a unified diff."""
    import difflib

    before, after = (
        source.splitlines(keepends=True),
        written.written(source, str(path)).splitlines(keepends=True),
    )
    return "".join(difflib.unified_diff(before, after, str(path), f"{path} (instrumented)"))


def write(source: str, path: Path, output: Path, force: bool = False) -> None:
    """Writes the instrumented source in the encoding that it names; raises UsageError where the output is
    in the way or cannot be written."""
    text = written.written(source, str(path))
    encoding, _ = tokenize.detect_encoding(io.BytesIO(text.encode("latin-1", "replace")).readline)
    try:
        if output.exists() and (output.samefile(path) or not force):
            raise UsageError(f"{output} exists", "--force, or another name")
        output.write_bytes(text.encode("utf-8" if encoding == "utf-8-sig" else encoding))
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from error
