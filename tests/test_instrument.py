"""The static view lists every call expression, names what is sure, and writes sources that do the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from constructs import LIBRARY, G
from constructs_more import CASES
from joulemeter.cli.instrument import command
from joulemeter.frameworks import static, written
from test_calls import observe


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shop")
    exec(compile(LIBRARY, "shop.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "shop", module)


def without_columns(ended: str) -> str:
    """Tracebacks by file, line and function: what is written out moves columns."""
    import re

    return re.sub(r"\('([^']+)', (\d+), '([^']+)', [^)]*\)", r"\1:\2 \3", ended)


SEEN = {
    "error called over lines": "a method call over lines fails on the line where the call begins",
    "globals(), vars() and dir()": "the name of the gates is one of the module's",
    "code object": "the name of the gates is one of those that the code names",
}
if sys.version_info >= (3, 12):
    SEEN["locals() in a class and a comprehension"] = "a comprehension's locals are those around it"
"""What a written-out source does not hide, and `joulemeter run` does."""


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("name", "body"), [case[:2] for case in CASES], ids=[name for name, _, _ in CASES])
def test_a_written_source_keeps_its_lines_and_does_the_same(name: str, body: str) -> None:
    if name in SEEN:
        pytest.skip(SEEN[name])
    source = body.replace("from __future__ import annotations\n", "")
    source = ("from __future__ import annotations\n" if source != body else "") + G + source + "\n# the end\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        text = written.written(source)
        assert text.count("\n") == source.count("\n")
        assert text.endswith("# the end\n")
        bare = observe(compile(source, "case.py", "exec", dont_inherit=True))
        seen = observe(compile(text, "case.py", "exec", dont_inherit=True))
    assert seen[0] == bare[0]
    assert without_columns(seen[1]) == without_columns(bare[1])
    gates = sum(isinstance(n, ast.Name) and n.id == written.GATE for n in ast.walk(ast.parse(text)))
    made = static.rewrite(ast.parse(source))
    assert gates == len(made.places)


SAMPLE = '''\
"""A script."""
import torch.nn.functional as F, numpy
from torch import nn
from torch.nn import Linear as L
import os.path
run = F.relu
x = nn.Linear(3, 4)
def g(F2, relu=run):
    é = F.relu(run(x)); L(1)
    class A(nn.Module):
        def __init__(self):
            super().__init__()
    return (lambda: A())()(F.pad(
        x, [1]))
os.path.join("ä", "b").join(f"{g(1)} {numpy.abs(2)}")
twice = F.relu
twice = F.gelu
twice(x)
F2 = nn.ReLU
"text"()
'''


def test_calls_are_listed_in_reading_order_with_what_is_sure() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        found = static.calls(SAMPLE)
    tree = ast.parse(SAMPLE)
    assert len(found) == sum(isinstance(node, ast.Call) for node in ast.walk(tree))
    apis = {call.text: call.api for call in found}
    assert apis["nn.Linear(3, 4)"] == "torch.nn.Linear"
    assert apis["F.relu(run(x))"] == "torch.nn.functional.relu"
    assert apis["run(x)"] == "torch.nn.functional.relu"
    assert apis["L(1)"] == "torch.nn.Linear"
    assert apis["F.pad(\n        x, [1])"] == "torch.nn.functional.pad"
    assert apis['os.path.join("ä", "b")'] == "os.path.join"
    assert apis["twice(x)"] is None, "a name bound twice is not sure"
    assert apis["g(1)"] is None
    assert apis["numpy.abs(2)"] == "numpy.abs"
    reasons = {call.text: call.reason for call in found if not call.wrapped}
    assert set(reasons) == {"super()", '"text"()'}
    relu = next(call for call in found if call.text == "F.relu(run(x))")
    assert (relu.line, relu.column, relu.end_column) == (9, 8, 22), "columns are characters, from 0"
    inside = [call for call in found if not call.text.startswith(('"', "g(", "numpy"))]
    for call in inside:
        lines = SAMPLE.split("\n")[call.line - 1 : call.end_line]
        lines[-1] = lines[-1][: call.end_column]
        assert "\n".join(lines)[call.column :] == call.text


def test_a_star_import_makes_nothing_sure_that_it_may_bind() -> None:
    (call,) = static.calls("from torch import relu\nfrom other import *\nrelu(1)\n")
    assert call.api is None


@pytest.mark.parametrize(
    "head",
    [
        "x = 1\n",
        "import os\n",
        "def f(): pass\n",
        "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n\ndef f(): pass\n",
        '"""doc"""\ndef f(): pass\n',
        '"""doc"""  # why\nfrom __future__ import annotations  # so\nclass A: pass\n',
        '"""doc\nlines"""; from __future__ import division; x = 2\n',
        "from __future__ import division; x = 1\n",
        "# a comment\n\n@property\ndef f(): pass\n",
        "if 1:\n    pass\n",
        "",
    ],
)
def test_the_import_of_the_gates_goes_where_python_takes_it(head: str) -> None:
    source = head + "print(len('abc'))\n"
    text = written.written(source)
    space: dict[str, Any] = {}
    exec(compile(text, "x", "exec", dont_inherit=True), space)
    assert space["__doc__" if "doc" in head else "__name__"] is not None if "doc" in head else True
    assert ast.get_docstring(ast.parse(text)) == ast.get_docstring(ast.parse(source))
    added = text.count("\n") - source.count("\n")
    assert added == (1 if head in ("def f(): pass\n", "if 1:\n    pass\n") else 0)


def test_the_command_prints_json_writes_and_shows_the_difference(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("# -*- coding: latin-1 -*-\nimport json  # why\nprint(json.dumps('\xe4'))\n", "latin-1")
    runner = CliRunner()
    seen = runner.invoke(command, [str(script), "--json"])
    assert seen.exit_code == 0, seen.output
    assert [call["api"] for call in json.loads(seen.output)["calls"]] == [None, "json.dumps"]
    keys = {"line", "column", "end_line", "end_column", "text", "api", "wrapped", "reason"}
    assert set(json.loads(seen.output)["calls"][0]) == keys
    out = tmp_path / "out.py"
    assert runner.invoke(command, [str(script), "-o", str(out)]).exit_code == 0
    runs = [
        subprocess.run([sys.executable, str(p)], capture_output=True, check=True).stdout
        for p in (script, out)
    ]
    assert runs[0] == runs[1] == b'"\\u00e4"\n'
    assert out.read_text("latin-1").count("# why") == 1
    shown = runner.invoke(command, [str(script), "--diff"]).output
    assert "+print(" not in shown or "__joulemeter__(json.dumps)" in shown
    assert "2 calls, 2 wrapped, 1 known by name" in runner.invoke(command, [str(script)]).output
    again = runner.invoke(command, [str(script), "-o", str(out)], standalone_mode=False)
    assert "exists" in str(again.exception)


def test_a_notebooks_calls_are_listed_by_cell_and_names_go_from_cell_to_cell(tmp_path: Path) -> None:
    cells = [
        ("markdown", "# f(x)"),
        ("code", "%matplotlib inline\nimport numpy as np"),
        ("code", "x = 1\ny = np.sum(\n  x)"),
    ]
    book = tmp_path / "b.ipynb"
    book.write_text(json.dumps({"cells": [{"cell_type": k, "source": source} for k, source in cells]}))
    seen = CliRunner().invoke(command, [str(book), "--json"])
    (call,) = json.loads(seen.stdout)["calls"]
    assert (call["cell"], call["line"], call["end_line"], call["api"]) == (3, 2, 3, "numpy.sum")
    assert "cell 2: %matplotlib inline is left out" in seen.stderr
    assert f"{book}, cell 3:2:4: np.sum(" in CliRunner().invoke(command, [str(book)]).stdout
    for option in (["-o", str(tmp_path / "out.py")], ["--diff"]):
        refused = CliRunner().invoke(command, [str(book), *option], standalone_mode=False)
        assert "nbconvert --to script" in str(refused.exception)


def test_a_cell_that_is_no_python_is_named(tmp_path: Path) -> None:
    book = tmp_path / "b.ipynb"
    book.write_text(json.dumps({"cells": [{"cell_type": "code", "source": "x = 1\ny = ("}]}))
    seen = CliRunner().invoke(command, [str(book)], standalone_mode=False)
    assert "b.ipynb, cell 1, line 2: '(' was never closed" in str(seen.exception)


def test_a_source_that_nests_too_deeply_is_listed_as_unmetered_or_refused(tmp_path: Path) -> None:
    script = tmp_path / "deep.py"
    script.write_text("def f(): return 1\nx = " + "+".join(["f()"] * 1500))
    calls = json.loads(CliRunner().invoke(command, [str(script), "--json"]).output)["calls"]
    assert len(calls) == 1500
    assert not any(call["wrapped"] for call in calls)
    assert {call["reason"] for call in calls} == {"rewritten, the source nests too deeply for Python"}
    for option in (["-o", str(tmp_path / "out.py")], ["--diff"]):
        refused = CliRunner().invoke(command, [str(script), *option], standalone_mode=False)
        assert "nest too deeply" in str(refused.exception)
    script.write_text("x = " + "+".join(["f()"] * 9000))
    refused = CliRunner().invoke(command, [str(script)], standalone_mode=False)
    assert "Python cannot compile it" in str(refused.exception)


def test_an_archive_is_refused_as_one(tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", "print(1)")
    seen = CliRunner().invoke(command, [str(archive)], standalone_mode=False)
    assert "a zip archive" in str(seen.exception)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"x = (\n", "line 1"), (b"\xff\xfe", "s.py"), (b"# coding: none\n", "s.py")],
)
def test_what_is_no_python_is_refused_with_the_reason(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    script = tmp_path / "s.py"
    if content is not None:
        script.write_bytes(content)
    seen = CliRunner().invoke(command, [str(script)], standalone_mode=False)
    assert message in str(seen.exception)
    assert type(seen.exception).__name__ == "UsageError"
