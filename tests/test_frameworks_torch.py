"""PyTorch's modules as spans."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from joulemeter.errors import UsageError
from joulemeter.frameworks import torch as modules


class Sink:
    """Spans in the order they end: (name, how deep)."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.open: list[int] = []
        self.spans: list[tuple[str, int]] = []

    def site(self, name: str, kind: str, *_: object) -> int:
        assert kind == "module"
        self.names.append(name)
        return len(self.names) - 1

    def enter(self, site: int) -> None:
        self.open.append(site)

    def exit(self) -> None:
        site = self.open.pop()
        self.spans.append((self.names[site], len(self.open)))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture
def sink():
    """What is written while the tracer runs."""
    tracer, made = modules.tracer("module"), Sink()
    tracer.start(made)
    yield made
    tracer.stop()


def test_a_module_is_named_by_its_class_and_its_path(sink: Sink) -> None:
    Net()(torch.ones(1, 4))
    assert sink.spans == [
        ("torch.nn.Linear body.0", 2),
        ("torch.nn.ReLU body.1", 2),
        ("torch.nn.Sequential body", 1),
        ("torch.nn.Linear head", 1),
        ("Net", 0),
    ]


def test_a_module_is_one_site_however_often_it_is_called(sink: Sink) -> None:
    net = Net()
    for _ in range(3):
        net(torch.ones(1, 4))
    assert len(sink.names) == 5
    assert len(sink.spans) == 15


def test_a_span_ends_with_its_exception(sink: Sink) -> None:
    with pytest.raises(RuntimeError):
        Net()(torch.ones(1, 5))
    assert sink.open == []


def test_a_new_module_at_the_address_of_a_dead_one_is_another_site(sink: Sink) -> None:
    for width in range(1, 50):
        torch.nn.Linear(width, 1)(torch.ones(1, width))
    assert len(sink.names) == 49


def test_a_compiled_graph_stays_whole_and_gives_the_same(sink: Sink) -> None:
    net, x = Net(), torch.ones(2, 4)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), net(x))


def test_scripted_traced_and_exported_modules_work(sink: Sink) -> None:
    net, x = Net(), torch.ones(1, 4)
    expected = net(x)
    assert torch.equal(torch.fx.symbolic_trace(net)(x), expected)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)


def test_stopping_gives_the_slot_back() -> None:
    before, tracer = torch.nn.Module.__call__, modules.tracer("module")
    tracer.start(Sink())
    assert torch.nn.Module.__call__ is not before
    tracer.stop()
    assert torch.nn.Module.__call__ is before


def test_a_wrapper_put_over_ours_stays_and_ours_falls_silent() -> None:
    before, tracer, made = torch.nn.Module.__call__, modules.tracer("module"), Sink()
    tracer.start(made)
    ours = torch.nn.Module.__call__

    def theirs(module, *args):
        return ours(module, *args)

    torch.nn.Module.__call__ = theirs
    try:
        tracer.stop()
        assert torch.nn.Module.__call__ is theirs
        torch.nn.ReLU()(torch.ones(1))
        assert made.spans == []
    finally:
        torch.nn.Module.__call__ = before


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="no level 'kernel'"):
        modules.tracer("kernel")


RAISES = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return self.missing(x)

def main():
    try:
        torch.nn.Sequential(Net())(torch.ones(1))
    except AttributeError as error:
        raise ValueError("chained") from error

main()
"""


def test_an_exception_through_modules_prints_the_programs_own_traceback(tmp_path: Path) -> None:
    """At every level at once, the frames of wrappers in the middle and in the cause left out."""
    script = tmp_path / "raises.py"
    script.write_text(RAISES)
    launched = [
        "-m",
        "joulemeter.launch",
        "--raw",
        str(tmp_path / "raw"),
        "--level",
        "api,module,operator,kernel",
    ]
    plain, metered = (
        subprocess.run(
            [sys.executable, *how, str(script)], capture_output=True, text=True, check=False, timeout=120
        )
        for how in ([], launched)
    )
    assert metered.stderr == plain.stderr
    assert metered.returncode == plain.returncode == 1
