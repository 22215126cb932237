"""Gates change nothing that a program can see, and miss no call of a metered library."""

from __future__ import annotations

import ast
import contextlib
import io
import sys
import threading
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from constructs import LIBRARY, G
from constructs_more import CASES
from joulemeter import pure
from joulemeter.frameworks import calls, imports, rewrite
from joulemeter.recorder import Recorder

ENGINES: list[Any] = [pure]
with contextlib.suppress(ImportError):
    from joulemeter import _recorder

    ENGINES.append(_recorder)

OURS = str(Path(pure.__file__).parent)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def shop(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("shop")
    module.__file__ = "shop.py"
    exec(compile(LIBRARY, "shop.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "shop", module)
    return module


class Metered:
    """Rewritten code, a recorder in a folder, and the names of the sites entered, in order."""

    def __init__(self, folder: Path, engine: Any, apis: tuple[str, ...] = ("shop",)) -> None:
        self.names: list[str] = []
        self.recorder = Recorder(folder, engine)
        self.judge = calls.Judge(self.recorder, apis)
        self.gates = self.recorder.gates(self.judge, calls.special())
        self.said: list[str] = []
        self.sources = imports.Sources(self.judge, self.gates, self.said.append)
        self.folder = folder

    def code(self, source: str | bytes, filename: str = "case.py") -> Any:
        return self.sources.code(source, filename)

    def entered(self) -> list[str]:
        """The names of the sites of all lanes, in the order of their entry; everything entered was left."""
        self.recorder.close()
        return [name for _, name in entered(self.folder)]


def entered(folder: Path) -> list[tuple[int, str]]:
    import json
    import struct

    found = []
    for sites in folder.glob("sites-*.jsonl"):
        pid = sites.stem.partition("-")[2]
        lines = [json.loads(line) for line in sites.read_text().splitlines()]
        names = {line["id"]: line["name"] for line in lines if "id" in line}
        for lane in folder.glob(f"lane-{pid}-*.bin"):
            depth = 0
            for t_ns, code in struct.iter_unpack("<qq", lane.read_bytes()):
                if t_ns == 0:
                    break
                depth += 1 if code >= 0 else -1
                assert depth >= 0
                if code >= 0:
                    found.append((t_ns, names[code]))
            assert depth == 0, f"{depth} spans left open"
    return sorted(found)


def observe(code: Any, name: str = "__main__") -> tuple[str, str]:
    """What a program prints, and how it ends: the traceback without frames of ours."""
    module = types.ModuleType(name)
    vars(module).update(__annotations__={})
    saved = sys.modules.get(name)
    sys.modules[name] = module
    printed = io.StringIO()
    ended = ""
    with contextlib.redirect_stdout(printed):
        try:
            exec(code, module.__dict__)
        except BaseException as error:  # noqa: BLE001 - how it ends is what is observed
            ended = described(error)
    if saved is not None:
        sys.modules[name] = saved
    return printed.getvalue(), ended


def described(error: BaseException | None) -> str:
    parts: list[str] = []
    while error is not None:
        summary = traceback.TracebackException.from_exception(error, capture_locals=False)
        frames = [f for f in summary.stack if not f.filename.startswith(OURS) and f.filename != __file__]
        parts.append(
            f"{type(error).__name__}: {summary} "
            + repr([(f.filename, f.lineno, f.name, f.colno, f.end_lineno, f.end_colno) for f in frames])
        )
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def expected(pattern: str, names: list[str]) -> bool:
    """Whether the names are the pattern's; ``*name`` stands for any number of them."""
    wanted = ["shop." + name if not name.startswith("*") else "*shop." + name[1:] for name in pattern.split()]
    rest = list(names)
    for name in wanted:
        if name.startswith("*"):
            while rest[:1] == [name[1:]]:
                del rest[0]
        elif rest[:1] == [name]:
            del rest[0]
        else:
            return False
    return not rest


def test_the_table_has_at_least_120_constructs() -> None:
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 120


# What a metered call shows of itself in the pure Python engine: a frame of ours.
FRAMES = {"frame of the caller", "warning"}


@pytest.mark.parametrize(("name", "body", "pattern"), CASES, ids=[name for name, _, _ in CASES])
def test_a_construct_runs_as_it_did_and_all_its_library_calls_are_recorded(
    name: str, body: str, pattern: str, engine: Any, tmp_path: Path
) -> None:
    if name in FRAMES and engine is pure:
        pytest.skip("the pure engine's frames are seen; its docstring says so")
    source = body.replace("from __future__ import annotations\n", "")
    source = ("from __future__ import annotations\n" if source != body else "") + G + source + "\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        bare = observe(compile(source, "case.py", "exec", dont_inherit=True))
        metered = Metered(tmp_path, engine)
        seen = observe(metered.code(source))
    assert not metered.sources.unmetered
    assert seen == bare
    names = metered.entered()
    assert expected(pattern, names), names


@pytest.mark.parametrize(("name", "body"), [case[:2] for case in CASES], ids=[name for name, _, _ in CASES])
def test_every_call_expression_passes_a_gate_or_is_listed_with_a_reason(name: str, body: str) -> None:
    source = body if body.startswith("from __future__") else G + body
    every = {
        (n.lineno, n.col_offset, n.end_lineno, n.end_col_offset)
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Call)
    }
    made = rewrite.rewrite(ast.parse(source))
    gated = {
        (at.lineno, at.col_offset, at.end_lineno, at.end_col_offset)
        for kind, at, _ in made.places
        if kind == rewrite.CALL
    }
    skipped = {
        (n.lineno, n.col_offset, n.end_lineno, n.end_col_offset) for n, reason in made.skipped if reason
    }
    assert every <= gated | skipped
    assert not gated & skipped


def test_threads_have_lanes_of_their_own(engine: Any, tmp_path: Path, shop: types.ModuleType) -> None:
    metered = Metered(tmp_path, engine)
    space: dict[str, Any] = {"shop": shop, "__name__": "__main__"}
    exec(metered.code("def work(b):\n    for _ in range(200): shop.apply(shop.f, 1)\n    b.wait()\n"), space)
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=space["work"], args=(barrier,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metered.entered().count("shop.apply") == 800
    assert len(list(tmp_path.glob("lane-*.bin"))) == 4
