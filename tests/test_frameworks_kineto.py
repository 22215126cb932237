"""PyTorch's operators and device kernels: records of the profiler into spans on our clock."""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest
import torch

from joulemeter import rawfiles
from joulemeter.frameworks import kineto, kineto_trace
from joulemeter.recorder import Recorder
from joulemeter.sources.fake_nvml import FakeNvml

TRACE = json.loads((Path(__file__).parent / "data" / "kineto_cuda.json").read_text())
BASE_NS = TRACE["baseTimeNanoseconds"]


class Sink:
    """Remembers what is written; its one lane with calls is MainThread, where call 0 is open from 0 to
    100 µs of the trace and call 1 from 100 µs on."""

    def __init__(self) -> None:
        self.sites: list[tuple[str, str, int]] = [("model(x)", "call", -1), ("loss.backward()", "call", -1)]
        self.spans: dict[str, np.ndarray] = {}
        self.described: dict[int, dict[str, object]] = {}

    def site(self, name: str, kind: str, *_: object) -> int:
        return self.site_at(-1, name, kind)

    def site_at(self, caller: int, name: str, kind: str) -> int:
        key = (name, kind, caller)
        if key not in self.sites:
            self.sites.append(key)
        return self.sites.index(key)

    def callers_at(self, lane: str, t_ns: np.ndarray) -> np.ndarray:
        if lane != "MainThread":
            return np.full(len(t_ns), -1)
        return np.where(t_ns < 100_000, 0, 1)

    def add_many(self, lane: str, spans: np.ndarray) -> None:
        self.spans[lane] = spans

    def named(self, lane: str) -> list[tuple[str, int]]:
        """(name, caller) of each span of a lane."""
        return [(self.sites[site][0], self.sites[site][2]) for site in self.spans[lane][:, 0]]


@pytest.fixture
def written() -> Sink:
    """The recorded trace, moved so that it begins at 0 ns."""
    sink = Sink()
    lanes = {4242: "MainThread", 4243: "thread 4243"}
    kineto.write(kineto_trace.from_chrome(TRACE), sink, -BASE_NS, lanes.__getitem__, "MainThread")
    return sink


def test_a_kernel_runs_when_and_where_the_device_says(written: Sink) -> None:
    spans = written.spans["cuda:0 stream 7"]
    assert (spans[:, 1:3] / 1e3).tolist() == [[60.0, 90.0], [150.0, 190.0], [200.0, 205.5]]
    assert written.named("cuda:0 stream 7")[0][0].startswith("ampere_sgemm")


def test_a_kernel_belongs_to_the_operator_that_launched_it_and_to_its_call(written: Sink) -> None:
    parents = [written.sites[site] for site in written.spans["cuda:0 stream 7"][:, 3]]
    assert parents[0] == ("aten::addmm", "operator", 0)
    assert parents[1] == ("aten::mm", "operator", 1)
    assert [caller for _, caller in written.named("cuda:0 stream 7")][:2] == [0, 1]


def test_a_copy_has_a_lane_of_its_own_stream(written: Sink) -> None:
    assert written.named("cuda:0 stream 20") == [("Memcpy HtoD (Pinned -> Device)", 0)]


def test_an_operator_on_the_engines_thread_belongs_to_the_call_open_at_home(written: Sink) -> None:
    """The autograd engine runs the backward of CUDA tensors on a thread that knows no call."""
    assert ("aten::mm", 1) in written.named("thread 4243")
    assert set(written.spans["thread 4243"][:, 3]) == {1}


def test_an_operator_too_short_to_tell_is_left_in_the_time_around_it(written: Sink) -> None:
    names = [name for name, _ in written.named("MainThread")]
    assert "aten::linear" in names
    assert "aten::t" not in names, "0.4 µs inside aten::linear"
    assert "cudaLaunchKernel" not in names, "a call of the driver is part of its operator"


def test_a_launch_whose_kernel_has_no_record_is_counted() -> None:
    trace = kineto_trace.from_chrome(TRACE)
    assert (trace.launches, len(trace.device), trace.unseen) == (5, 4, 1)


class Nvml(FakeNvml):
    """A driver that knows its GPUs by UUID; ``nvml-2`` is the third."""

    NVMLError = pynvml.NVMLError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if not uuid.startswith("GPU-nvml-"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return int(uuid[-1])

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle


@pytest.mark.parametrize(
    ("uuid", "name"), [("nvml-2", "gpu-2"), ("of a slice of a GPU", "cuda:0"), (None, "cuda:0")]
)
def test_a_device_is_called_as_its_rail_is_whichever_gpus_the_process_sees(
    monkeypatch: pytest.MonkeyPatch, uuid: str | None, name: str
) -> None:
    """A process that may see the third GPU alone counts it as its first."""
    known = SimpleNamespace() if uuid is None else SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: known)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml([]))
    kineto.device_name.cache_clear()
    sink = Sink()
    kineto.write(
        kineto_trace.from_chrome(TRACE),
        sink,
        -BASE_NS,
        lambda id: "MainThread",
        "MainThread",
        kineto.device_name,
    )
    kineto.device_name.cache_clear()
    assert {f"{name} stream 7", f"{name} stream 20"} <= set(sink.spans)


class Event:
    """One of the profiler's own events, as ``torch.autograd`` hands them out."""

    def __init__(self, entry: dict) -> None:
        self.entry, self.args = entry, entry.get("args", {})

    def activity_type(self) -> str:
        return self.entry["cat"]

    def name(self) -> str:
        return self.entry["name"]

    def start_ns(self) -> int:
        return BASE_NS + round(self.entry["ts"] * 1e3)

    def end_ns(self) -> int:
        return self.start_ns() + round(self.entry["dur"] * 1e3)

    def device_index(self) -> int:
        return self.args["device"]

    def device_resource_id(self) -> int:
        return self.args.get("stream", self.entry["tid"])

    def correlation_id(self) -> int:
        return self.args.get("External id", 0)

    linked_correlation_id = correlation_id


def test_events_and_exported_trace_say_the_same() -> None:
    events = [Event(entry) for entry in TRACE["traceEvents"] if entry["ph"] == "X"]
    assert kineto_trace.from_events(events) == kineto_trace.from_chrome(TRACE)


# ── the real profiler ────────────────────────────────────────────────────────────────────────────────


def traced(tmp_path: Path, program, *levels: str):
    """The run that ``program(recorder)`` leaves under the tracers of ``levels``."""
    recorder = Recorder(tmp_path)
    tracers = [kineto.tracer(level) for level in levels]
    for each in tracers:
        each.start(recorder)
    try:
        program(recorder)
    finally:
        for each in reversed(tracers):
            each.stop()
        recorder.close()
    return rawfiles.read(tmp_path)


def names_of(run) -> list[str]:
    names = {site.id: site.name for site in run.sites}
    return [names[site] for site in run.spans.site.tolist()]


def test_operators_nest_under_the_call_in_the_source_and_carry_its_line(tmp_path: Path) -> None:
    x, w = torch.ones(64, 64), torch.ones(64, 64)

    def program(recorder: Recorder) -> None:
        call = recorder.site("torch.nn.functional.linear", "call", "user.py", 12, 4, "step")
        for _ in range(5):
            recorder.enter(call)
            torch.nn.functional.linear(x, w)
            recorder.exit()

    run = traced(tmp_path, program, "operator")
    assert run.lanes == ["MainThread"], "operators stand on the lane of the thread that ran them"
    sites = {site.id: site for site in run.sites}
    rows = [row for row, name in enumerate(names_of(run)) if name == "aten::linear"]
    assert len(rows) == 5
    for row in rows:
        assert (sites[run.spans.site[row]].file, sites[run.spans.site[row]].line) == ("user.py", 12)
        assert sites[run.spans.site[run.spans.parent[row]]].name == "torch.nn.functional.linear"


def test_operators_are_on_the_clock_of_the_spans(tmp_path: Path) -> None:
    moments = []

    def program(recorder: Recorder) -> None:
        for _ in range(3):
            before = time.monotonic_ns()
            torch.ones(100_000).sort()
            moments.append((before, time.monotonic_ns()))

    run = traced(tmp_path, program, "operator")
    rows = [row for row, name in enumerate(names_of(run)) if name == "aten::sort"]
    rows = [row for row in rows if run.spans.parent[row] < 0]
    for (before, after), row in zip(moments, rows, strict=True):
        assert before - 50_000 <= run.spans.start_ns[row] <= run.spans.end_ns[row] <= after + 50_000


def test_cycles_lose_no_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kineto, "CYCLE_NS", 1_000_000)
    monkeypatch.setattr(kineto, "LOOK_S", 0.001)
    module = torch.nn.Linear(8, 8)

    def program(recorder: Recorder) -> None:
        for _ in range(3000):
            module(torch.ones(4, 8))

    run = traced(tmp_path, program, "operator")
    count = Counter(names_of(run))
    assert count["aten::linear"] == 3000
    assert count["joulemeter: reading the profiler's records"] > 3


def test_a_cycle_ends_only_where_no_record_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the user's own record_function, or below a frame of PyTorch's, a record is open."""
    monkeypatch.setattr(kineto, "CYCLE_NS", 60_000_000_000)
    turns, end = [], kineto._profiler._turn
    monkeypatch.setattr(
        kineto._profiler, "_turn", lambda again=True: turns.append(1) if again else end(False)
    )
    module = torch.nn.Linear(8, 8)

    class Inside(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return module(x.detach())

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def program(recorder: Recorder) -> None:
        kineto._profiler._due_ns, kineto._profiler._late[:] = 0, [True]
        with torch.profiler.record_function("mine"):
            module(torch.ones(4, 8))
        Inside.apply(torch.ones(4, 8, requires_grad=True))
        assert not turns
        module(torch.ones(4, 8))
        assert turns == [1]

    traced(tmp_path, program, "operator")


def test_a_node_of_the_backward_graph_is_written_once(tmp_path: Path) -> None:
    x = torch.ones(64, 64, requires_grad=True)
    names = names_of(traced(tmp_path, lambda _: (x @ x).sum().backward(), "operator"))
    assert [name for name in names if "MmBackward0" in name] == [
        "autograd::engine::evaluate_function: MmBackward0"
    ]
    assert names.count("aten::mm") == 3


def test_both_levels_share_the_one_profiler(tmp_path: Path) -> None:
    run = traced(tmp_path, lambda _: torch.ones(8, 8).matmul(torch.ones(8, 8)), "operator", "kernel")
    assert names_of(run).count("aten::matmul") == 1


def test_the_programs_own_profiler_works_and_ours_goes_on_after_it(tmp_path: Path) -> None:
    seen = []

    def program(recorder: Recorder) -> None:
        torch.ones(8).cumsum(0)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
            torch.ones(8).cumprod(0)
        seen.extend(event.name for event in theirs.events())
        torch.ones(8).logcumsumexp(0)

    names = names_of(traced(tmp_path, program, "operator"))
    assert "aten::cumprod" in seen
    assert "aten::cumsum" in names
    assert "aten::logcumsumexp" in names


def test_stopping_leaves_pytorch_as_it_was(tmp_path: Path) -> None:
    profile, record = torch.autograd.profiler.profile, torch.autograd.profiler.record_function
    slots = [
        (torch.nn.Module, "__call__"),
        (profile, "_prepare_trace"),
        (profile, "__exit__"),
        (record, "__enter__"),
        (record, "__exit__"),
    ]
    before = [getattr(*slot) for slot in slots]
    traced(tmp_path, lambda _: None, "operator")
    assert [getattr(*slot) for slot in slots] == before
    assert not torch.autograd._profiler_enabled()


def test_a_forked_worker_records_nothing_and_ends(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.ones(16, 4))

    def program(recorder: Recorder) -> None:
        assert len(list(torch.utils.data.DataLoader(data, batch_size=4, num_workers=1))) == 4

    traced(tmp_path, program, "operator")
