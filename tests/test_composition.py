"""One network is the same kernels whichever format it comes in; and nothing is put together that is not so."""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small_networks
from joulemeter import graphs, kernels, layers, predict
from joulemeter.composition import composed
from joulemeter.graphs import torch_export
from joulemeter.kernel import Kernel
from joulemeter.network import Network, Node

FILES = Path(__file__).parent / "data" / "small_networks"


def families(network: Network) -> dict[str, tuple[int, float, float]]:
    """Launches, FLOPs and bytes by family, as deployed."""
    deployed = predict.as_run(network, deployed=True)
    counts: Counter[str] = Counter()
    for node in deployed.nodes:
        assert node.kernel is not None, node.operator
        work = kernels.work(node.kernel)
        counts.update({node.kernel.family: 1, f"{node.kernel.family} FLOP": work.flops})
        counts.update({f"{node.kernel.family} bytes": work.bytes})
    return {
        each: (n, counts[f"{each} FLOP"], counts[f"{each} bytes"])
        for each, n in counts.items()
        if " " not in each
    }


@pytest.mark.parametrize("name", small_networks.NAMES)
def test_a_network_is_the_same_kernels_in_three_formats(name: str, tmp_path: Path) -> None:
    module, arguments = small_networks.small(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, arguments), tmp_path / "n.pt2")
        torch.onnx.export(module, arguments, tmp_path / "n.onnx", dynamo=True, verbose=False)
    files = [tmp_path / "n.pt2", tmp_path / "n.onnx", FILES / f"{name}.tflite"]
    ours = [families(graphs.read(str(file))) for file in files]
    assert ours[0] == ours[1]
    if (
        name == "bert"
    ):  # litert-torch puts γ and β into the layer that follows, and gives the residual its own
        assert ours[2].pop("mul")[0] == 1
        assert (ours[0].pop("add")[0], ours[2].pop("add")[0]) == (3, 4)
    if name == "swin":  # it writes a layer that two read twice
        assert (ours[0].pop("fc")[0], ours[2].pop("fc")[0]) == (14, 15)
    assert ours[0] == ours[2]
    if name not in ("mobilenet", "efficientnet"):
        assert "layernorm" in ours[0]
    if name in ("vit", "gpt2", "bert"):
        assert ours[0]["attention"][0] == 1


def node(family: str, operator: str, reads: str, writes: str, **shape: int | str) -> Node:
    return Node(
        Kernel(family, shape), operator, writes, reads=tuple(reads.split()), writes=tuple(writes.split())
    )


def attention(**changes: Node) -> Network:
    """softmax(s Q Kᵀ + m) V as ONNX has it, over an input of (2, 3 · 8 · 6 · 4)."""
    nodes = {
        "qkv": Node(
            layers.fully_connected(12, 8, 72, True), "Gemm", "qkv", reads=("x", "w"), writes=("q", "k", "v")
        ),
        "scores": node("matmul", "MatMul", "q k", "scores", products=6, rows=6, inner=4, columns=6),
        "scaled": node("mul", "Mul", "scores s", "scaled", elements=216, broadcast="scalar"),
        "masked": node("add", "Add", "scaled m", "masked", elements=216, broadcast="scalar"),
        "soft": node("softmax", "Softmax", "masked", "soft", rows=36, columns=6),
        "values": node("matmul", "MatMul", "soft v", "values", products=6, rows=6, inner=6, columns=4),
        **changes,
    }
    return Network("a", "onnx", tuple(nodes.values()), {"x": (2, 6, 8)})


def test_products_around_a_softmax_are_one_attention() -> None:
    layer, whole = composed(attention()).nodes
    assert layer.kernel is not None
    assert whole.kernel == layers.attention((2, 3, 6, 4), (2, 3, 6, 4), mask=True)
    assert whole.folded == ("MatMul", "Mul", "Add", "Softmax", "MatMul")
    assert (whole.reads, whole.writes) == (("q", "k", "v", "m"), ("values",))


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("scores are read elsewhere too", {"more": node("relu", "Relu", "scores", "more", elements=216)}),
        ("another width of values", {"values": node("matmul", "MatMul", "soft v", "values", products=6, rows=6, inner=6, columns=5)}),
        ("another number of keys", {"values": node("matmul", "MatMul", "soft v", "values", products=6, rows=6, inner=5, columns=4)}),
        ("something in between", {"masked": node("relu", "Relu", "scaled", "masked", elements=216)}),
        ("slow products keep their own price", {"values": node("matmul", "MatMul", "soft v", "values", products=6, rows=6, inner=6, columns=4, subnormal=25)}),
    ],
)  # fmt: skip
def test_what_is_not_attention_stays_apart(why: str, changes: dict[str, Node]) -> None:
    assert "attention" not in {
        each.kernel.family for each in composed(attention(**changes)).nodes if each.kernel
    }, why


def parts(forward: object, *shapes: tuple[int, ...]) -> list[str]:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma, self.beta = (torch.nn.Parameter(torch.rand(8)) for _ in range(2))

        def forward(self, *xs: torch.Tensor) -> torch.Tensor:
            return forward(self, *xs)

    network = torch_export.from_module(Module(), tuple(torch.rand(shape) for shape in shapes))
    return [each.kernel.family for each in predict.as_run(network, deployed=True).nodes if each.kernel]


def by_hand(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    off = x - x.mean(-1, keepdim=True)
    return off / (off.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * m.gamma + m.beta


def rms(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * m.gamma


def test_normalisations_written_out_are_one_kernel_and_their_residual_is_not_swallowed() -> None:
    first = lambda m, x: torch.relu(x)  # noqa: E731  something that makes what is normalised
    assert parts(lambda m, x: by_hand(m, first(m, x)), (4, 8)) == ["relu", "layernorm"]
    assert parts(lambda m, x: rms(m, first(m, x)), (4, 8)) == ["relu", "rmsnorm"]
    assert parts(lambda m, x: (y := first(m, x)) + by_hand(m, y), (4, 8)) == ["relu", "layernorm", "add"]
    assert parts(lambda m, x: by_hand(m, first(m, x)).relu(), (4, 8)) == ["relu", "layernorm", "relu"]


def test_a_normalisation_whose_middle_is_wanted_stays_apart() -> None:
    def both(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        mean = x.mean(-1, keepdim=True)
        off = x - mean
        return off / (off.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() + mean.exp()

    found = parts(both, (4, 8))
    assert "layernorm" not in found
    assert "reduction" in found


def test_a_mean_and_a_variance_of_something_else_are_no_normalisation() -> None:
    found = parts(lambda m, x: torch.relu(x) * torch.relu(x).mean(-1, keepdim=True).sqrt(), (4, 8))
    assert found.count("reduction") == 1


def test_what_depends_on_no_input_is_left_out_and_what_is_written_in_place_is_not() -> None:
    def masked(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(4, 8).triu().exp()

    assert parts(masked, (4, 8)) == ["add"]

    def written(m: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        room = torch.zeros(4, 8)
        room[:, :4].copy_(x[:, :4].sigmoid())
        return room.relu()

    assert parts(written, (4, 8))[-1] == "relu"


def test_copies_that_lay_out_anew_are_noted_and_those_that_add_numbers_stay() -> None:
    network = torch_export.from_module(Moved(), (torch.rand(2, 3, 4),))
    deployed = predict.as_run(network, deployed=True)
    assert [each.kernel.family for each in deployed.nodes if each.kernel] == ["concat", "relu"]
    assert "copies that only lay numbers out anew" in " ".join(deployed.notes)
    assert "copy" in [each.kernel.family for each in network.nodes if each.kernel], (
        "as run, they are paid for"
    )


class Moved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2).contiguous()
        return torch.cat([y, y, x.transpose(1, 2)], 1).relu()


def test_an_operator_without_formula_is_never_left_out() -> None:
    lost = Node(None, "Mystery", "m", reads=("constant",), writes=("y",), bytes=8.0)
    made = node("relu", "Relu", "y", "z", elements=4)
    seen = node("relu", "Relu", "x", "r", elements=4)
    found = composed(Network("n", "onnx", (lost, made, seen), {"x": (4,)}))
    assert found.unpriced == {"Mystery": 1}
    assert len(found.nodes) == 3


def test_a_network_whose_inputs_nobody_names_keeps_all_its_nodes() -> None:
    nodes = (node("relu", "Relu", "1", "2", elements=4), node("add", "Add", "2 2", "3", elements=4))
    assert len(composed(replace(attention(), nodes=nodes, inputs={"input": (4,)})).nodes) == 2
