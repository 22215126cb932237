"""TensorFlow's and JAX's operators: records of their own profilers into spans on our clock."""

import contextlib
import os
import struct
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import rawfiles
from joulemeter.frameworks import jax as jax_operators
from joulemeter.frameworks import tensorflow as tf_operators
from joulemeter.frameworks import xplane
from joulemeter.frameworks.cycles import ANCHOR, Recording
from joulemeter.frameworks.xplane import Event, Line
from joulemeter.recorder import Recorder

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(key: int, name: str) -> bytes:
    return field(1, key) + field(2, field(1, key) + field(2, name))


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_survive_the_wire(value: int) -> None:
    ((number, found),) = xplane._fields(field(3, value))
    assert (number, xplane._int(found)) == (3, value)


def test_an_event_has_its_lines_time_and_the_names_of_its_stats() -> None:
    event = field(1, 5) + field(2, 2_500_000) + field(3, 1_000_000) + field(4, field(1, 9) + field(7, 8))
    event += field(4, field(1, 7) + varint(2 << 3 | 1) + struct.pack("<d", 1.0))
    line = field(1, 77) + field(2, "python") + field(3, 1_000) + field(4, event)
    plane = field(2, "/host:CPU") + field(3, line) + field(4, entry(5, "Dot"))
    plane += field(5, entry(8, "dot.3")) + field(5, entry(9, "hlo_op")) + field(5, entry(7, "double"))
    (found,) = xplane.lines(field(1, plane))
    assert found == ("/host:CPU", 77, "python", [Event("Dot", 3_500, 4_500, {"hlo_op": "dot.3"})])


def test_torn_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="ends after the message"):
        list(xplane._fields(field(2, "python")[:-1]))


# ── from records to operators ────────────────────────────────────────────────────────────────────────


def test_jax_writes_a_dispatch_twice_and_it_is_one_operator() -> None:
    events = [Event("PjitFunction(add)", 0, 100, {}), Event("PjitFunction(add)", 1, 99, {})]
    events += [Event("ParseArguments", 2, 3, {}), Event("PjitFunction(add)", 200, 300, {})]
    assert [(each.name, each.start_ns) for each in jax_operators.operations(events)] == [
        ("jit(add)", 0),
        ("jit(add)", 200),
    ]


def test_what_xla_runs_knows_the_function_that_dispatched_it() -> None:
    stats = {"hlo_op": "fusion", "hlo_module": "jit__lambda"}
    events = [
        Event("fusion", 0, 9, stats),
        Event("end: fusion", 9, 10, stats),
        Event("PjitFunction(<lambda>)", 0, 5, {}),
    ]
    inner, outer = jax_operators.operations(events)
    assert inner.name == "xla: fusion"
    assert inner.dispatch == outer.dispatch


def test_tensorflow_operators_are_those_called_and_those_of_graphs() -> None:
    events = [
        Event("EagerExecute", 0, 9, {"eager_op": "AddV2"}),
        Event("EagerLocalExecute: AddV2", 1, 8, {}),
        Event("EagerLocalExecute: __inference_step_18", 10, 20, {}),
        Event("_MklMatMul", 12, 15, {"long_name": "dense/matmul:_MklMatMul"}),
        Event("ExecutorState::Process", 11, 19, {"id": "3"}),
    ]
    names = [each.name for each in tf_operators.operations(events)]
    assert names == ["tf: AddV2", "tf: function step", "tf: _MklMatMul"]


def on_devices() -> list[Line]:
    """What a session sees of a function that ran on a host's thread and on a stream of each of two GPUs."""
    ran = {"hlo_op": "fusion", "hlo_module": "jit_step"}
    home = [Event(ANCHOR, at, at + 1, {}) for at in range(0, 50, 10)]
    return [
        Line("/device:GPU:0", 1, "Stream #13(Compute)", [Event("fusion", 150, 250, ran)]),
        Line("/device:GPU:1", 1, "Stream #13(Compute)", [Event("fusion", 160, 300, ran)]),
        Line("/host:CPU", 7, "python", [*home, Event("PjitFunction(step)", 100, 140, {})]),
        Line("/host:CPU", 8, "executor", [Event("fusion", 145, 149, ran)]),
    ]


class Session:
    """A profiler's session that sees ``on_devices``."""

    def anchor(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def finish(self) -> list[Line]:
        return on_devices()


def test_what_a_devices_stream_runs_is_a_kernel_on_a_lane_of_that_device(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recording = Recording(recorder, Session, jax_operators.operations, "joulemeter: reading")
    recording.open()
    recording.turn(again=False)
    recorder.close()
    found = rawfiles.read(tmp_path)
    sites = {site.id: site for site in found.sites}
    ran = {
        found.lanes[lane]: sites[site] for lane, site in zip(found.spans.lane, found.spans.site, strict=True)
    }
    assert ran["executor"].kind == "operator"
    for device in ("GPU:0", "GPU:1"):
        kernel = ran[f"{device} Stream #13(Compute)"]
        assert (kernel.name, kernel.kind) == ("xla: fusion", "kernel")
    rows = [row for row in range(len(found.spans)) if sites[found.spans.site[row]].kind == "kernel"]
    assert [sites[found.spans.site[found.spans.parent[row]]].name for row in rows] == ["jit(step)"] * 2


# ── the real profilers ───────────────────────────────────────────────────────────────────────────────


def traced(folder: Path, tracer, program):
    """What ``program``, called five times as call site user.py:7, leaves behind."""
    recorder = Recorder(folder)
    call = recorder.site("the.call", "call", "user.py", 7, 0, "step")
    tracer.start(recorder)
    try:
        for _ in range(5):
            recorder.enter(call)
            program()
            recorder.exit()
    finally:
        tracer.stop()
        recorder.close()
    found = rawfiles.read(folder)
    return found, {site.id: site for site in found.sites}


def test_jax_operators_stand_under_the_call_and_its_line(tmp_path: Path) -> None:
    import jax

    step = jax.jit(lambda x: (x @ x).sum())
    x = jax.numpy.ones((64, 64))
    step(x).block_until_ready()
    found, sites = traced(tmp_path, jax_operators.tracer("operator"), lambda: step(x).block_until_ready())
    spans = found.spans
    calls = [row for row in range(len(spans)) if sites[spans.site[row]].name == "jit(<lambda>)"]
    assert len(calls) == 5
    assert {sites[spans.site[spans.parent[row]]].name for row in calls} == {"the.call"}
    assert {(sites[spans.site[row]].file, sites[spans.site[row]].line) for row in calls} == {("user.py", 7)}
    xla = [row for row in range(len(spans)) if sites[spans.site[row]].name.startswith("xla: ")]
    assert xla
    assert {sites[spans.site[spans.parent[row]]].name for row in xla} <= {"jit(<lambda>)", "the.call"}


def test_jaxs_own_trace_works_and_ours_goes_on_after_it(tmp_path: Path) -> None:
    import jax

    x = jax.numpy.ones(8)
    done = []

    def program() -> None:
        if not done:
            with jax.profiler.trace(str(tmp_path / "theirs")):
                (x + 1).block_until_ready()
        done.append((x * 2).block_until_ready())

    before = jax.profiler.start_trace
    found, sites = traced(tmp_path / "ours", jax_operators.tracer("operator"), program)
    count = Counter(sites[site].name for site in found.spans.site.tolist())
    assert list((tmp_path / "theirs").rglob("*.xplane.pb"))
    assert count["jit(multiply)"] == 5
    assert jax.profiler.start_trace is before


def test_tensorflow_operators_stand_under_the_call_and_its_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

    @tf.function
    def step(x):
        return tf.reduce_sum(tf.tanh(x))

    x = tf.ones((64, 64))
    step(x)
    found, sites = traced(tmp_path, tf_operators.tracer("operator"), lambda: tf.add(step(x), 1.0))
    spans = found.spans
    count = Counter(sites[site].name for site in spans.site.tolist())
    assert count["tf: function step"] == count["tf: AddV2"] == count["tf: Tanh"] == 5
    rows = [row for row in range(len(spans)) if sites[spans.site[row]].kind == "operator"]
    mine = [sites[spans.site[row]] for row in rows if sites[spans.site[row]].line]
    assert {(site.file, site.line) for site in mine} == {("user.py", 7)}
    adds = [row for row in rows if sites[spans.site[row]].name == "tf: AddV2"]
    assert {sites[spans.site[spans.parent[row]]].name for row in adds} == {"the.call"}


def test_the_anchor_is_no_operator() -> None:
    events = [Event(ANCHOR, 0, 1, {})]
    assert not list(jax_operators.operations(events))
    assert not list(tf_operators.operations(events))
