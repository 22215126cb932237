"""Model files: the same kernels whatever the format, and a clear line for whatever cannot be read."""

import itertools
import json
import math
import re
import struct
import sys
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from joulemeter import graphs, kernels
from joulemeter.errors import GraphError, JoulemeterError, UsageError
from joulemeter.graphs import onnx as onnx_reader
from joulemeter.graphs import pt2, tflite, torch_export
from joulemeter.network import Network
from joulemeter.predict import as_run

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
TensorProto = onnx.TensorProto
nn = torch.nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.norm2(self.depth(x)) + x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def small() -> tuple["nn.Module", "torch.Tensor"]:
    return Small().eval(), torch.zeros(1, 3, 16, 16)


def macs(network: Network, *families: str) -> float:
    return sum(kernels.multiply_adds(k) for k in network.kernels if not families or k.family in families)


# ── torch.export ─────────────────────────────────────────────────────────────────────────────────────


def test_every_node_of_a_module_has_its_place_and_its_shape() -> None:
    network = torch_export.from_module(small()[0], (torch.zeros(2, 3, 16, 16),))
    assert network.unpriced == {}
    conv = network.nodes[0]
    assert conv.module == "conv"
    assert conv.kernel is not None
    assert conv.kernel.batch == 2
    assert network.parameters == sum(p.numel() for p in small()[0].parameters())
    # 64 results a channel: 8·64·27, 8·64·9, 8·5, twice.
    assert macs(network) == 2 * (8 * 64 * 27 + 8 * 64 * 9 + 40)


def test_attention_stays_one_node_and_a_fast_path_changes_no_count() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    network = torch_export.from_module(layer, (torch.zeros(1, 6, 16),))
    assert sum(kernel.family == "attention" for kernel in network.kernels) == 1
    # qkv 3·16², out 16², feed-forward 2·16·32 for 6 tokens; attention 2·6·6·16.
    assert macs(network) == 6 * (4 * 256 + 2 * 512) + 2 * 36 * 16


def test_a_saved_program_reads_as_the_module_does_with_open_sizes_given(tmp_path: Path) -> None:
    module, _ = small()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, (torch.zeros(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}})
    path = str(tmp_path / "small.pt2")
    torch.export.save(program, path)
    read = pt2.read(path, {"": (4, 3, 16, 16)})
    made = torch_export.from_module(module, (torch.zeros(4, 3, 16, 16),))
    assert [k.key for k in read.kernels] == [k.key for k in made.kernels]
    assert read.nodes[0].module == "conv"
    with pytest.raises(GraphError, match=r"left open.*--input"):
        pt2.read(path, {})
    with pytest.raises(GraphError, match="fixed 3, not 4"):
        pt2.read(path, {"x": (4, 4, 16, 16)})


def test_nothing_in_a_pt2_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    module, x = small()
    torch.export.save(torch.export.export(module, (x,)), path)
    evil = tmp_path / "evil.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(evil, "w") as new:
        for each in old.infolist():
            content = old.read(each)
            new.writestr(
                each.filename, content if "models/" in each.filename else b"cos\nsystem\n(S'exit 1'\ntR."
            )
    assert pt2.read(str(evil), {}).unpriced == {}


def test_control_flow_is_refused() -> None:
    class Branch(nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(GraphError, match="control flow"):
        torch_export.from_module(Branch(), (torch.zeros(3),))


USERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, body, norm):
        super().__init__()
        self.body, self.norm = body, norm

    def forward(self, x):
        print("so far so good")
        return self.norm(self.body(x))

def made(body, norm=nn.Identity()):
    return lambda: (Net(body, norm), torch.ones(2, 3))

def raises():
    raise KeyError("no weights")

plain, branch = made(lambda x: x, nn.BatchNorm1d(3)), made(lambda x: x if x.sum() > 0 else -x)
sized, wrong = made(lambda x: x[x.nonzero()[:, 0]]), made(lambda x: x.nope)
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_nets.py").write_text(USERS)
    (tmp_path / "users_torn.py").write_text("def f(:")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_nets", raising=False)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("users_nets:raises", r"KeyError: 'no weights' \(.*users_nets.py, line \d+\)"),
        ("users_nets:missing", "users_nets has no 'missing'. Try: python -c"),
        ("users_nets:plian", "users_nets has no 'plian'. Try: users_nets:plain"),
        ("users_torn:f", r"SyntaxError: .*\(users_torn.py, line 1\)"),
        ("nowhere:f", "No module named 'nowhere'.*its own folder"),
        ("users_nets:wrong", r"'nope' \(.*users_nets.py, line \d+\)"),
        ("users_nets:branch", r"depends on the numbers in its input \(.*users_nets.py, line \d+\)"),
        ("users_nets:sized", r"how large a tensor is depends on the numbers in it \(nonzero"),
    ],
)
def test_what_a_users_own_code_raises_is_one_line_with_its_place(
    users: None, capfd: pytest.CaptureFixture[str], target: str, line: str
) -> None:
    with pytest.raises(JoulemeterError, match=line) as caught:
        graphs.read(target)
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.replace("so far so good\n", "") == ""  # nothing of PyTorch's own


def test_a_module_is_read_as_at_inference_and_prints_beside_the_price(
    users: None, capsys: pytest.CaptureFixture[str]
) -> None:
    network = graphs.read("users_nets:plain")
    assert [kernel.family for kernel in network.kernels] == ["bn"]  # training would count its batches
    assert capsys.readouterr().out == ""


def test_a_shape_that_no_input_has_is_refused(users: None, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"has no input typo of \(1, 3\).*x \(2, 3\)"):
        graphs.read(
            saved(model([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}), tmp_path), {"typo": (1, 3)}
        )
    with pytest.raises(GraphError, match="fixed 2, not 4"):
        graphs.read(
            saved(model([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}), tmp_path), {"": (4, 3)}
        )
    with pytest.raises(UsageError, match=r"1000000000 × 1000000 does not fit into memory. Try: --input"):
        graphs.read("users_nets:plain", {"": (10**9, 10**6)})


def test_an_operator_without_formula_is_named_and_keeps_its_bytes() -> None:
    class Odd(nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return torch.linalg.inv(x) + 1

    network = torch_export.from_module(Odd(), (torch.eye(4),))
    assert network.unpriced == {"aten.linalg_inv": 1}
    lost = next(node for node in network.nodes if node.kernel is None)
    assert lost.bytes >= 128


def test_resnext_is_not_wide_resnet_and_vit_counts_its_attention() -> None:
    """4.23 against 11.40 GMAC; ViT-B/16 has 16.85 in layers with weights and 0.72 in attention."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    from joulemeter.networks.vision import stock

    def read(name: str) -> Network:
        with torch.device("meta"):  # shapes alone: nothing is allocated or drawn
            module, arguments = stock(name)()
        return torch_export.from_module(module, arguments)

    assert macs(read("resnext50_32x4d")) / 1e9 == pytest.approx(4.23, abs=0.01)
    assert macs(read("wide_resnet50_2")) / 1e9 == pytest.approx(11.40, abs=0.01)
    vit = read("vit_b_16")
    assert macs(vit, "conv", "fc") / 1e9 == pytest.approx(16.85, abs=0.01)
    assert macs(vit, "attention") / 1e9 == pytest.approx(0.715, abs=0.001)


# ── ONNX ─────────────────────────────────────────────────────────────────────────────────────────────


def model(nodes, inputs, weights=(), outputs=("y",)):
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    stored = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.5] * math.prod(shape))
        for name, shape in weights
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", made, results, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def folded_small():
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], name="/conv/Conv"
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v", "d"], ["e"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Add", ["e", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "h", "k"], ["y"], transB=1),
    ]
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "d": (8,), "h": (5, 8), "k": (5,)}
    return model(nodes, {"x": ("n", 3, 16, 16)}, list(shapes.items()))


def saved(made, tmp_path: Path) -> str:
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return str(path)


def test_onnx_and_torch_give_the_same_kernels_once_deployed(tmp_path: Path) -> None:
    read = onnx_reader.read(saved(folded_small(), tmp_path), {"": (1, 3, 16, 16)})
    made = torch_export.from_module(small()[0], (small()[1],), name="m.pt2")
    assert sorted(k.key for k in as_run(read).kernels) == sorted(k.key for k in as_run(made).kernels)
    assert read.nodes[0].module == "conv"
    assert read.parameters == 8 * 27 + 8 + 72 + 8 + 40 + 5


def test_an_open_size_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"input x \(n,3,16,16\) leaves a size open.*--input x="):
        onnx_reader.read(saved(folded_small(), tmp_path), {})


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = Path(saved(folded_small(), tmp_path))
    whole = path.read_bytes()
    for cut in (0, 1, 7, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(GraphError):
            onnx_reader.read(str(path), {"": (1, 3, 16, 16)})


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(GraphError, match="cycle"):
        onnx_reader.read(saved(model(nodes, {"x": (3,)}, outputs=("b",)), tmp_path), {})


def test_onnx_control_flow_is_refused(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [3])]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body, name="choice")]
    with pytest.raises(GraphError, match="'choice' is control flow"):
        onnx_reader.read(saved(model(nodes, {"x": (3,), "c": ()}), tmp_path), {})


def test_external_data_is_never_opened(tmp_path: Path) -> None:
    made = folded_small()
    made.graph.initializer[0].ClearField("float_data")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    for key, value in (("location", "/dev/zero"), ("length", str(10**12))):
        entry = made.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, value
    network = onnx_reader.read(saved(made, tmp_path), {"": (1, 3, 16, 16)})
    assert network.unpriced == {}


def test_more_nodes_than_any_network_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_reader, "MAX_NODES", 3)
    with pytest.raises(GraphError, match="has 8 nodes, more than 3"):
        onnx_reader.read(saved(folded_small(), tmp_path), {"": (1, 3, 16, 16)})


def functions(depth: int, calls: int):
    """A model of ``depth`` functions, each of which calls the one before ``calls`` times; the first is a relu."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ours", 1)]
    made = []
    for i in range(depth):
        kind, domain = ("Relu", "") if i == 0 else (f"f{i - 1}", "ours")
        names = ["a", *(f"b{j}" for j in range(calls))]
        body = [helper.make_node(kind, [x], [y], domain=domain) for x, y in itertools.pairwise(names)]
        made.append(helper.make_function("ours", f"f{i}", ["a"], [names[-1]], body, imports))
    whole = model([helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="ours")], {"x": (1, 8)})
    whole.opset_import.append(imports[1])
    whole.functions.extend(made)
    return whole


def test_functions_are_put_in_place_of_their_calls(tmp_path: Path) -> None:
    network = onnx_reader.read(saved(functions(2, 3), tmp_path), {})
    assert [kernel.family for kernel in network.kernels] == ["relu"] * 9


def test_two_kilobytes_of_functions_that_are_a_billion_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="1000000000 nodes"):
        onnx_reader.read(saved(functions(9, 10), tmp_path), {})
    endless = functions(2, 2)
    endless.functions[0].node[0].op_type = "f1"
    endless.functions[0].node[0].domain = "ours"
    with pytest.raises(GraphError, match="calls itself"):
        onnx_reader.read(saved(endless, tmp_path), {})
    with pytest.raises(GraphError, match="too deep"):
        onnx_reader.read(saved(functions(3000, 1), tmp_path), {})


def test_weights_for_other_channels_than_the_image_has_are_refused(tmp_path: Path) -> None:
    made = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 4, 8, 8)}, [("w", (8, 3, 3, 3))])
    with pytest.raises(GraphError, match="4 channels by weights for 3"):
        onnx_reader.read(saved(made, tmp_path), {})


def test_a_pt2_without_operators_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    empty = {"graph": {"nodes": [], "tensor_values": {}}, "signature": {"input_specs": []}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/model.json", json.dumps({"graph_module": empty}))
    with pytest.raises(GraphError, match="no operators"):
        pt2.read(str(path), {})


def test_an_unknown_or_quantised_operator_is_named_never_free(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Warp", ["a"], ["y"], domain="ours")]
    network = onnx_reader.read(saved(model(nodes, {"x": (100,)}), tmp_path), {})
    assert network.unpriced == {"Warp": 1}
    quantised = [helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])]
    network = onnx_reader.read(saved(model(quantised, {"x": (100,)}), tmp_path), {})
    assert network.unpriced == {"DynamicQuantizeLinear": 1}
    assert "quantised" in network.notes[0]


def test_onnx_runtimes_own_graph_shows_what_it_fuses(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = folded_small()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = saved(made, tmp_path)
    plain, found = onnx_reader.read(path, {}), onnx_reader.optimised(path)
    assert any(node.operator == "FusedConv" for node in found.nodes)
    assert found.unpriced == {}
    assert macs(found) == macs(plain)


def sized_on_the_way(*before: object, target: str = "target") -> "onnx.ModelProto":
    """x (1, 6, 4) into a reshape whose target the nodes ``before`` compute, and on into a product."""
    graph = helper.make_graph(
        [
            *before,
            helper.make_node("Reshape", ["x", target], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [8, 5], [0.0] * 40),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("eight", TensorProto.INT64, [1], [8]),
            helper.make_tensor("huge", TensorProto.INT64, [3], [10**6] * 3),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_sizes_that_a_graph_computes_are_worked_out_with_their_consumers() -> None:
    """As PaddlePaddle exports it: the shape through 32 bits and back, its product over what is left."""
    node = helper.make_node
    model = sized_on_the_way(
        node("Shape", ["x"], ["shape"]),
        node("Cast", ["shape"], ["short"], to=TensorProto.INT32),
        node("ReduceProd", ["short"], ["count"], keepdims=1),
        node("Cast", ["count"], ["long"], to=TensorProto.INT64),
        node("Div", ["long", "eight"], ["left"]),
        node("Concat", ["left", "eight"], ["target"], axis=0),
    )
    network = onnx_reader.from_model(model, "m", {"": (3, 6, 4)})
    assert network.unpriced == {}
    (product,) = [each for each in network.kernels if each.family in ("fc", "matmul")]
    assert kernels.multiply_adds(product) == 9 * 8 * 5


def test_constants_with_fewer_numbers_than_they_say_are_no_sizes() -> None:
    model = sized_on_the_way(helper.make_node("Concat", ["torn", "eight"], ["target"], axis=0))
    model.graph.initializer.append(onnx.TensorProto(name="torn", data_type=7, dims=[1], raw_data=b"abc"))
    with suppress(GraphError):
        assert "Reshape" in onnx_reader.from_model(model, "m", {"": (3, 6, 4)}).unpriced


@pytest.mark.parametrize(
    "before",
    [
        [helper.make_node("ConstantOfShape", ["huge"], ["target"])],
        [helper.make_node("Expand", ["one", "huge"], ["target"])],
        [helper.make_node("Range", ["zero", "huge", "zero"], ["target"])],
        [helper.make_node("Gather", ["zero", "eight"], ["target"])],
        [helper.make_node("Div", ["one", "zero"], ["target"])],
        [helper.make_node("Concat", ["one", "eight"], ["target"])],
        [helper.make_node("Slice", ["one"], ["target"])],
    ],
)
def test_sizes_that_cannot_be_worked_out_are_left_to_be_named(before: list[object]) -> None:
    with suppress(GraphError):
        network = onnx_reader.from_model(sized_on_the_way(*before), "m", {"": (3, 6, 4)})
        assert "MatMul" in network.unpriced or "Reshape" in network.unpriced


# ── TFLite ───────────────────────────────────────────────────────────────────────────────────────────


class Flat:
    """A flatbuffer written from the end, enough for a model of one convolution."""

    def __init__(self) -> None:
        flatbuffers = pytest.importorskip("flatbuffers")
        self.b = flatbuffers.Builder(1024)

    def table(self, count: int, **slots) -> int:
        self.b.StartObject(count)
        for name, value in slots.items():
            number, kind = int(name[1:]), value[0]
            getattr(self.b, f"Prepend{kind}Slot")(number, value[1], 0)
        return self.b.EndObject()

    def vector(self, values, kind: str = "Int32", size: int = 4) -> int:
        self.b.StartVector(size, len(values), size)
        for value in reversed(values):
            getattr(self.b, f"Prepend{kind}")(value)
        return self.b.EndVector()


def convolution(operator: int = 3, fused: int = 1, reads: tuple[int, ...] = (0, 1, 2)) -> bytes:
    """x (1, 16, 16, 3) by w (8, 3, 3, 3), stride 2, SAME, then a fused relu."""
    f = Flat()
    content = f.vector([0] * 64, "Uint8", 1)
    buffers = [f.table(1), f.table(1, _0=("UOffsetTRelative", content))]
    tensors = []
    for name, shape, buffer in (
        ("x", (1, 16, 16, 3), 0),
        ("w", (8, 3, 3, 3), 1),
        ("b", (8,), 1),
        ("net/conv/y", (1, 8, 8, 8), 0),
    ):
        text, dims = f.b.CreateString(name), f.vector(shape)
        tensors.append(
            f.table(8, _0=("UOffsetTRelative", dims), _2=("Uint32", buffer), _3=("UOffsetTRelative", text))
        )
    options = f.table(
        6, _1=("Int32", 2), _2=("Int32", 2), _3=("Int8", fused), _4=("Int32", 1), _5=("Int32", 1)
    )
    ids, out = f.vector(reads), f.vector([3])
    op = f.table(
        5,
        _1=("UOffsetTRelative", ids),
        _2=("UOffsetTRelative", out),
        _3=("Uint8", 1),
        _4=("UOffsetTRelative", options),
    )
    offsets = [f.vector(each, "UOffsetTRelative") for each in (tensors, [op])]
    ins, outs = f.vector([0]), f.vector([3])
    graph = f.table(5, _0=("UOffsetTRelative", offsets[0]), _1=("UOffsetTRelative", ins), _2=("UOffsetTRelative", outs),
                    _3=("UOffsetTRelative", offsets[1]))  # fmt: skip
    code = f.table(4, _0=("Int8", min(operator, 127)), _3=("Int32", operator))
    codes, all_graphs, all_buffers = (
        f.vector(each, "UOffsetTRelative") for each in ([code], [graph], buffers)
    )
    root = f.table(
        5,
        _0=("Uint32", 3),
        _1=("UOffsetTRelative", codes),
        _2=("UOffsetTRelative", all_graphs),
        _4=("UOffsetTRelative", all_buffers),
    )
    f.b.Finish(root, b"TFL3")
    return bytes(f.b.Output())


def test_a_tflite_convolution_is_the_same_kernel_as_torchs(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(convolution())
    network = tflite.read(str(path), {})
    conv, relu = network.nodes
    assert conv.kernel is not None
    assert relu.kernel is not None
    module = nn.Conv2d(3, 8, 3, 2, 1)
    (made,) = torch_export.from_module(module, (torch.zeros(1, 3, 16, 16),)).kernels
    assert conv.kernel == made
    assert relu.kernel.family == "relu"
    assert conv.module == "net.conv"


def test_every_torn_tflite_is_a_clear_line(tmp_path: Path) -> None:
    """Cut anywhere, or with any offset blown up, the file is refused or read, and nothing else happens."""
    whole = convolution()
    path = tmp_path / "m.tflite"
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(GraphError):
            tflite.read(str(path), {})
    for at in range(0, len(whole) - 4, 2):
        path.write_bytes(whole[:at] + struct.pack("<I", 0x7FFFFFF0) + whole[at + 4 :])
        with suppress(GraphError):
            tflite.read(str(path), {})


def test_tflite_control_flow_cycles_and_unknown_operators(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(convolution(operator=119))
    with pytest.raises(GraphError, match="control flow"):
        tflite.read(str(path), {})
    path.write_bytes(convolution(reads=(3, 1, 2)))
    with pytest.raises(GraphError, match="cycle"):
        tflite.read(str(path), {})
    path.write_bytes(convolution(operator=27))
    assert tflite.read(str(path), {}).unpriced == {"operator 27": 1}


# ── all formats ──────────────────────────────────────────────────────────────────────────────────────


def test_a_file_of_no_known_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"\.keras, \.onnx, \.pt2, \.tflite"):
        graphs.read(str(tmp_path / "net.weights"))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".tflite", ".keras"])
def test_a_file_that_is_not_there_or_is_noise_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"no{suffix}"
    with pytest.raises(GraphError, match=rf"no such file. Try: the path of a \{suffix} file$"):
        graphs.read(str(path))
    path.write_bytes(b"\x00\x01noise" * 50)
    with pytest.raises(GraphError, match=rf"no (ONNX|TFLite|\{suffix}).* Try: .*(again|Converter)"):
        graphs.read(str(path))
    with pytest.raises(GraphError, match=rf"nothing{suffix}: no such file. Try: {re.escape(str(path))}$"):
        graphs.read(str(tmp_path / f"nothing{suffix}"))


def test_a_file_that_is_not_there_names_the_three_of_its_ending_that_come_nearest(tmp_path: Path) -> None:
    for name in ("resnet18.onnx", "resnet34.onnx", "resnet50.onnx", "vit.onnx", "resnet5.pt2"):
        (tmp_path / name).touch()
    with pytest.raises(GraphError) as refused:
        graphs.read(str(tmp_path / "resnet51.onnx"))
    assert refused.value.remedy.startswith(f"{tmp_path}/resnet50.onnx or {tmp_path}/resnet")
    assert refused.value.remedy.count(" or ") == 2
    assert "pt2" not in refused.value.remedy
    with pytest.raises(GraphError, match=r"no such file. Try: the path of a \.onnx file"):
        graphs.read(str(tmp_path / "vit.onnx" / "vit.onnx"))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".tflite", ".keras"])
def test_a_folder_is_no_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"net{suffix}").mkdir()
    with pytest.raises(GraphError, match=r"Is a directory.* Try: "):
        graphs.read(str(tmp_path / f"net{suffix}"))


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").symlink_to("net.onnx")
    with pytest.raises(GraphError, match=r"cannot be read \(Too many levels.*\). Try: a copy"):
        graphs.read(str(tmp_path / "net.onnx"))


def test_an_input_of_other_dimensions_is_answered_with_the_option_to_type(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"4 dimensions, --input gives 2. Try: --input x=1,3,16,16$"):
        graphs.read(saved(folded_small(), tmp_path), {"": (3, 16)})
    path = str(tmp_path / "small.pt2")
    made, x = small()
    torch.export.save(torch.export.export(made, (x,)), path)
    with pytest.raises(GraphError, match=r"4 dimensions, --input gives 2. Try: --input x=1,3,16,16$"):
        graphs.read(path, {"": (3, 16)})


def test_a_module_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="No module named"):
        graphs.read("nowhere_at_all:make")


def test_a_pt2_whose_graph_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/models/model.json", json.dumps({"graph_module": {"graph": {"nodes": 3}}}))
    with pytest.raises(GraphError, match=r"not as torch\.export writes it"):
        graphs.read(str(path))
