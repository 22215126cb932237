"""The recorder loses nothing that was entered, and never disturbs whoever writes through it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from joulemeter import pure
from joulemeter.frameworks import calls
from joulemeter.recorder import Recorder

ENGINES: list[Any] = [pure]
with contextlib.suppress(ImportError):
    from joulemeter import _recorder

    ENGINES.append(_recorder)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param


def lanes(folder: Path, pid: int | None = None) -> dict[int, list[tuple[int, int]]]:
    """The pairs of each lane of a process."""
    found = {}
    for path in folder.glob(f"lane-{pid or os.getpid()}-*.bin"):
        pairs = list(struct.iter_unpack("<qq", path.read_bytes()))
        ended = next((i for i, (t_ns, _) in enumerate(pairs) if t_ns == 0), len(pairs))
        assert all(pair == (0, 0) for pair in pairs[ended:])
        found[int(path.stem.rpartition("-")[2])] = pairs[:ended]
    return found


def lines(folder: Path, pid: int | None = None) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (folder / f"sites-{pid or os.getpid()}.jsonl").read_text().splitlines()
    ]


def codes(pairs: list[tuple[int, int]]) -> list[int]:
    return [code for _, code in pairs]


def test_enter_and_exit_are_pairs_of_stamp_and_code(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    outer, inner = recorder.site("outer", "span"), recorder.site("inner", "call", "a.py", 3, 4, "f")
    before = time.monotonic_ns()
    recorder.enter(outer)
    recorder.enter(inner)
    assert recorder.current() == inner
    recorder.exit()
    recorder.exit()
    recorder.exit()  # nothing is open: nothing is written
    assert recorder.current() == -1
    recorder.close()
    (pairs,) = lanes(tmp_path).values()
    assert codes(pairs) == [outer, inner, -1, -1]
    stamps = [t_ns for t_ns, _ in pairs]
    assert before <= stamps[0]
    assert stamps == sorted(stamps)
    assert stamps[-1] <= time.monotonic_ns()
    assert {line["id"]: line["name"] for line in lines(tmp_path) if "id" in line} == {
        outer: "outer",
        inner: "inner",
    }
    assert {"lane": 0, "name": "MainThread"} in lines(tmp_path)


def test_the_same_place_is_the_same_site(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    assert recorder.site("f", "call", "a.py", 1) == recorder.site("f", "call", "a.py", 1)
    assert recorder.site("f", "call", "a.py", 1) != recorder.site("f", "call", "a.py", 2)
    recorder.close()


def test_a_closed_recorder_takes_no_more_and_closing_twice_does_no_harm(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    recorder.enter(site)
    recorder.close()
    recorder.close()
    recorder.exit()
    recorder.enter(site)
    recorder.exit()
    assert codes(lanes(tmp_path)[0]) == [site]
    assert not any("dropped" in line for line in lines(tmp_path))


def test_files_grow_past_their_chunks_and_lose_nothing(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    for _ in range(100_000):
        recorder.enter(site)
        recorder.exit()
    recorder.close()
    assert codes(lanes(tmp_path)[0]) == [site, -1] * 100_000
    assert (tmp_path / f"lane-{os.getpid()}-0.bin").stat().st_size == 32 * 100_000  # 32 bytes a span


def test_spans_nest_deeper_than_a_chunk_is_long(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    for _ in range(20_000):
        recorder.enter(site)
    for _ in range(20_000):
        recorder.exit()
    recorder.close()
    assert codes(lanes(tmp_path)[0]) == [site] * 20_000 + [-1] * 20_000


def test_each_thread_has_a_lane_and_an_ended_thread_leaves_its_own_to_the_next(
    engine: Any, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")

    def work() -> None:
        for _ in range(100):
            recorder.enter(site)
            recorder.exit()

    for _ in range(10):
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()
    recorder.enter(site)
    recorder.exit()
    recorder.close()
    found = lanes(tmp_path)
    assert sorted(len(pairs) for pairs in found.values()) == [2, 2000]
    assert [line["name"] for line in lines(tmp_path) if "lane" in line] == ["worker", "MainThread"]


def test_a_span_that_a_thread_left_open_ends_with_the_thread(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    thread = threading.Thread(target=lambda: recorder.enter(site))
    thread.start()
    thread.join()
    recorder.close()
    assert codes(lanes(tmp_path)[0]) == [site, -1]


def test_threads_that_python_does_not_know_are_recorded_and_not_registered(
    engine: Any, tmp_path: Path
) -> None:
    import _thread

    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    done = _thread.allocate_lock()
    done.acquire()
    known: list[int] = []

    def work() -> None:
        recorder.enter(site)
        recorder.exit()
        known.append(len(threading._active))  # type: ignore[attr-defined]
        done.release()

    before = len(threading._active)  # type: ignore[attr-defined]
    _thread.start_new_thread(work, ())
    done.acquire()
    recorder.close()
    assert known == [before]
    assert codes(lanes(tmp_path)[0]) == [site, -1]


def test_spans_held_across_awaits_lie_on_lanes_of_their_tasks(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    call = recorder.site("call", "call")

    async def work(name: str, turns: int) -> None:
        with recorder.span(name):
            for _ in range(turns):
                recorder.enter(call)
                recorder.exit()
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(work("a", 3), work("b", 2))
        await work("c", 1)

    asyncio.run(main())
    with recorder.span("after"):
        pass
    recorder.close()
    names = {line["id"]: line["name"] for line in lines(tmp_path) if "id" in line}
    read = sorted([names.get(code, "-") for code in codes(pairs)] for pairs in lanes(tmp_path).values())
    a, b = ["a", *["call", "-"] * 3, "-"], ["b", *["call", "-"] * 2, "-"]
    c, after = ["c", "call", "-", "-"], ["after", "-"]
    assert sum(map(len, read)) == sum(map(len, (a, b, c, after)))
    whole = [" ".join(lane) for lane in read]
    assert all(any(" ".join(part) in lane for lane in whole) for part in (a, b, c, after))
    assert len(read) <= 3  # c's lane was one that another task had left


def test_executor_threads_share_no_lane(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    call = recorder.site("call", "call")
    meet = threading.Barrier(3)

    def work() -> None:
        meet.wait()
        recorder.enter(call)
        meet.wait()
        recorder.exit()
        meet.wait()

    async def main() -> None:
        with recorder.span("task"):
            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3)))

    asyncio.run(main())
    recorder.close()
    assert sorted(len(pairs) for pairs in lanes(tmp_path).values()) == [2, 2, 2, 2]


def test_a_span_in_a_suspended_generator_never_leaves_others_open(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)

    def suspended() -> Any:
        with recorder.span("inside"):
            yield

    generator = suspended()
    with recorder.span("outside"):
        next(generator)
    next(generator, None)
    with recorder.span("later"):
        pass
    recorder.close()
    pairs = codes(lanes(tmp_path)[0])
    assert pairs.count(-1) == len(pairs) - pairs.count(-1) == 3


def test_a_forked_child_writes_files_of_its_own_and_goes_on_inside_the_open_span(
    engine: Any, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, engine)
    outer, inner = recorder.site("outer", "call"), recorder.site("inner", "call")
    other = threading.Thread(target=lambda: (recorder.enter(inner), stop.wait(), recorder.exit()))
    stop = threading.Event()
    other.start()
    recorder.enter(outer)
    with (
        pytest.warns(DeprecationWarning, match="fork")
        if sys.version_info >= (3, 12)
        else contextlib.nullcontext()
    ):
        child = os.fork()
    if child == 0:
        recorder.enter(inner)
        recorder.exit()
        recorder.exit()
        recorder.site("new", "call")
        os._exit(0)
    os.waitpid(child, 0)
    stop.set()
    other.join()
    recorder.exit()
    recorder.close()
    assert sorted(codes(pairs) for pairs in lanes(tmp_path).values()) == [[outer, -1], [inner, -1]]
    assert [codes(p) for p in lanes(tmp_path, child).values() if p] == [[outer, inner, -1, -1]]
    assert [line["name"] for line in lines(tmp_path, child) if "id" in line] == ["outer", "inner", "new"]


def test_kill_9_loses_nothing(engine: Any, tmp_path: Path) -> None:
    program = f"""
        import importlib, os, signal
        from joulemeter.recorder import Recorder
        recorder = Recorder({str(tmp_path)!r}, importlib.import_module({engine.__name__!r}))
        site = recorder.site("f", "call")
        for _ in range(50_000): recorder.enter(site); recorder.exit()
        recorder.enter(site)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    assert process.wait(60) == -signal.SIGKILL
    assert codes(lanes(tmp_path, process.pid)[0]) == [0, -1] * 50_000 + [0]
    assert lines(tmp_path, process.pid)[0]["name"] == "f"


FULL_DISK = """
    import importlib, json, os, subprocess, sys
    folder, engine = sys.argv[1:]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    from joulemeter.recorder import Recorder
    recorder = Recorder(folder, importlib.import_module(engine))
    outer, site = recorder.site("outer", "call"), recorder.site("f", "call")
    recorder.enter(outer)
    for _ in range(100_000): recorder.enter(site); recorder.exit()
    recorder.exit()
    recorder.close()
    import struct
    codes = []
    for name in os.listdir(folder):
        if name.startswith("lane"):
            data = open(os.path.join(folder, name), "rb").read()
            codes = [code for t_ns, code in struct.iter_unpack("<qq", data) if t_ns]
    sites = [json.loads(line) for line in open(os.path.join(folder, f"sites-{os.getpid()}.jsonl"))]
    print(json.dumps({"codes": len(codes), "enters": codes.count(1), "first": codes[0], "last": codes[-1],
        "exits": codes.count(-1), "lines": [line for line in sites if "dropped" in line]}))
"""


def test_on_a_full_disk_spans_are_dropped_and_counted_and_the_program_goes_on(
    engine: Any, tmp_path: Path
) -> None:
    command = [
        "unshare",
        "-rm",
        sys.executable,
        "-c",
        textwrap.dedent(FULL_DISK),
        str(tmp_path),
        engine.__name__,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no private mount namespace may be made here")
    seen = json.loads(done.stdout)
    assert (seen["first"], seen["last"]) == (0, -1), "what was entered before still ends"
    assert seen["enters"] + 1 == seen["exits"]
    (line,) = seen["lines"]
    assert line["dropped"] == 100_000 - seen["enters"] > 0
    assert "No space left" in line["why"]
    assert line["from_ns"] > 0


def test_the_script_may_close_every_descriptor_and_leave_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("joulemeter._recorder")
    program = f"""
        import os
        from joulemeter.recorder import Recorder
        os.chdir({str(tmp_path)!r})
        recorder = Recorder("raw")
        site = recorder.site("f", "call")
        recorder.enter(site); recorder.exit()
        os.chdir("/")
        os.closerange(3, 1000)
        own = os.open("/dev/null", os.O_RDWR)
        for _ in range(50_000): recorder.enter(site); recorder.exit()
        recorder.site("g", "call")
        recorder.close()
        assert own == 3
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    assert process.wait(60) == 0
    assert len(lanes(tmp_path / "raw", process.pid)[0]) == 100_002


def test_added_spans_carry_lane_and_parent(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    parent, kernel = recorder.site("call", "call"), recorder.site("kernel", "kernel")
    recorder.add("cuda:0", kernel, 10, 20, parent)
    recorder.add("cuda:1", kernel, 12, 22)
    recorder.add("cuda:0", kernel, 30, 40)
    recorder.close()
    named = {line["name"]: line["lane"] for line in lines(tmp_path) if "lane" in line}
    records = list(struct.iter_unpack("<5q", (tmp_path / f"added-{os.getpid()}.bin").read_bytes()))
    assert records == [
        (named["cuda:0"], kernel, 10, 20, parent),
        (named["cuda:1"], kernel, 12, 22, -1),
        (named["cuda:0"], kernel, 30, 40, -1),
    ]


def test_descriptions_are_written_as_they_are_set(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    site = recorder.site("f", "call")
    recorder.describe(site, {"described": 1})
    assert {"describe": site, "arguments": {"described": 1}} in lines(tmp_path)
    recorder.close()


def test_two_recorders_do_not_mix(engine: Any, tmp_path: Path) -> None:
    one, two = Recorder(tmp_path / "one", engine), Recorder(tmp_path / "two", engine)
    first, second = one.site("f", "call"), two.site("g", "call")
    for _ in range(3):
        one.enter(first)
        two.enter(second)
        one.exit()
        two.exit()
    one.close()
    two.close()
    assert codes(lanes(tmp_path / "one")[0]) == [first, -1] * 3 == codes(lanes(tmp_path / "two")[0])


def test_recorders_and_gates_leave_nothing_behind(engine: Any, tmp_path: Path) -> None:
    def turn() -> None:
        recorder = Recorder(tmp_path, engine)
        gates = recorder.gates(calls.Judge(recorder, ("json",)), calls.special())
        call = gates.gate(0, ("a.py", 1, 0, ""))
        for _ in range(50):
            call(json.dumps)({"a": 1})
            call(len)("abc")
            for _ in gates.gate(1, ("a.py", 1, 0, ""))([1]):
                pass
        with recorder.span("x"):
            pass
        recorder.close()

    for _ in range(5):
        turn()
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(30):
        turn()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 30_000, f"{grown} bytes"
    assert len(gc.get_objects()) - objects < 100


def test_a_gate_keeps_no_callee_alive(engine: Any, tmp_path: Path) -> None:
    import weakref

    recorder = Recorder(tmp_path, engine)
    call = recorder.gates(calls.Judge(recorder, ("json",)), calls.special()).gate(0, ("a.py", 1, 0, ""))

    def make() -> tuple[Any, ...]:
        class Own(json.JSONEncoder):
            def fresh(self) -> None: ...

        thing = Own()
        call(Own)
        call(thing.fresh)()
        call(thing.encode)([1])
        function = lambda: 1  # noqa: E731
        call(function)()
        return weakref.ref(Own), weakref.ref(thing), weakref.ref(function)

    references = make()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    recorder.close()


def test_a_class_at_the_address_of_a_dead_one_is_judged_anew(engine: Any, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, engine)
    gates = recorder.gates(calls.Judge(recorder, ("json",)), calls.special())
    seen = set()
    for turn in range(400):
        base = json.JSONEncoder if turn % 2 else object
        seen.add((turn % 2, gates.decide(type("Own", (base,), {}))))
        gc.collect(0)
    assert seen == {(0, None), (1, "json.JSONEncoder")}
    recorder.close()


class Interrupted(calls.Judge):
    """A judge amid whose first answer of the kind ``method`` a signal arrives."""

    def __init__(self, sink: Any, method: str, number: int) -> None:
        super().__init__(sink, ("json",))
        answer, waiting = getattr(self, method), [number]

        def asked(*arguments: Any) -> Any:
            if waiting:
                signal.raise_signal(waiting.pop())
            return answer(*arguments)

        setattr(self, method, asked)


def too_late(_number: int, _frame: Any) -> None:
    raise TimeoutError("too late")


@pytest.mark.parametrize("method", ["module", "function", "site", "describe"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_what_a_signal_raises_while_we_judge_reaches_the_program_and_the_call_is_metered_ever_after(
    engine: Any, tmp_path: Path, method: str, number: int
) -> None:
    before = signal.signal(signal.SIGALRM, too_late)
    recorder = Recorder(tmp_path, engine)
    gates = recorder.gates(Interrupted(recorder, method, number), calls.special())
    call = gates.gate(0, ("f.py", 1, 0, "f"))

    def program() -> None:
        call(json.dumps)([1])
        time.sleep(0)  # by then the program has heard of it, if not before

    try:
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else TimeoutError):
            program()
        assert call(json.dumps)([1]) == "[1]"
        assert gates.decide(json.dumps) == "json.dumps"
    finally:
        signal.signal(signal.SIGALRM, before)
        recorder.close()


@pytest.mark.skipif(len(ENGINES) < 2, reason="the extension was not built")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_fault_of_the_judges_own_is_shown_and_never_raised(tmp_path: Path) -> None:
    class Faulty(calls.Judge):
        def function(self, *_: Any) -> Any:
            raise TimeoutError("of its own")

    recorder = Recorder(tmp_path, _recorder)
    call = recorder.gates(Faulty(recorder, ("json",)), calls.special()).gate(0, ("f.py", 1, 0, "f"))
    assert call(json.dumps)([1]) == "[1]"
    recorder.close()


@pytest.mark.skipif(len(ENGINES) < 2, reason="the extension was not built")
def test_a_subinterpreter_is_refused_the_extension_and_told_why() -> None:
    """In a process of its own: once there was a second interpreter, torch thinks that it always holds the GIL."""
    pytest.importorskip("_xxsubinterpreters")
    program = """
        import _xxsubinterpreters as interpreters
        interpreters.run_string(interpreters.create(), "import joulemeter._recorder")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "RunFailedError" in done.stderr
    assert re.search("main interpreter|not support loading in subinterpreters", done.stderr)
