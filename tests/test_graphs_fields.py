"""Operators of many fields: detectors, speech, mixtures of experts, spectral networks; and what graphs wrap."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulemeter import kernels
from joulemeter.graphs import onnx as onnx_reader
from joulemeter.graphs import pt2, tflite, torch_export
from test_graphs import macs, model, saved

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
helper = pytest.importorskip("onnx.helper")
TensorProto = onnx.TensorProto
nn = torch.nn


class Wrapped(nn.Module):
    """A block under autocast and one without gradients, as networks hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: "torch.Tensor") -> "torch.Tensor":
        y = self.first(x)
        with torch.autocast("cpu", enabled=False):
            z = self.second(torch.relu(y))
            with torch.set_grad_enabled(False):
                w = torch.sigmoid(z)
        return w + y.sum()


def test_what_a_graph_wraps_is_read_from_a_module_and_from_a_file_alike(tmp_path: Path) -> None:
    program = torch.export.export(Wrapped(), (torch.zeros(2, 8),))
    assert "wrap_with_autocast" in str(program.graph)
    path = tmp_path / "wrapped.pt2"
    torch.export.save(program, path)
    made = torch_export.from_program(program, "wrapped")
    read = pt2.read(str(path), {})
    assert [each.operator for each in made.nodes] == [
        "aten.linear", "aten.relu", "aten.linear", "aten.sigmoid", "aten.sum", "aten.add"
    ]  # fmt: skip
    assert [(each.operator, each.kernel, each.module) for each in read.nodes] == [
        (each.operator, each.kernel, each.module) for each in made.nodes
    ]
    assert made.nodes[2].module == "second"
    for network in (made, read):  # each reads what the one before it wrote, across the edges of the blocks
        assert network.nodes[1].reads[0] == network.nodes[0].writes[0]
        assert network.nodes[3].reads[0] == network.nodes[2].writes[0]
        assert network.nodes[5].reads[0] == network.nodes[3].writes[0]


def test_products_under_autocast_are_of_its_type_and_cast_what_they_read() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(self.first(x))

    network = torch_export.from_module(Narrow(), (torch.zeros(2, 8),))
    families = [(each.family, each.dtype, each.shape.get("elements")) for each in network.kernels]
    casts = [("copy", "bfloat16", n) for n in (2 * 8, 16 * 8, 16, 4 * 16, 4)]
    dense = ("fc", "bfloat16", None)
    assert families == [*casts[:3], dense, *casts[3:], dense]


class Cache:
    """What PyTorch cannot take apart, as a language model's cache of keys and values."""

    def __init__(self, keys: "torch.Tensor", values: "torch.Tensor") -> None:
        self.layers = [{"keys": keys, "values": values}]


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)

    def forward(self, x: "torch.Tensor") -> tuple["torch.Tensor", Cache]:
        keys, values = self.project(x).chunk(2, -1)
        return keys @ values.transpose(-1, -2), Cache(keys, values.exp())


def test_a_module_may_return_what_pytorch_cannot_take_apart() -> None:
    network = torch_export.from_module(Cached(), (torch.zeros(1, 4, 8),))
    assert [k.family for k in network.kernels if k.family != "view"] == ["fc", "matmul", "elementwise"]
    assert network.nodes[0].module == "project"
    assert network.parameters == 8 * 16 + 16


def many_operators(x: "torch.Tensor") -> list["torch.Tensor"]:
    """Operators of detectors, speech, mixtures of experts, spectral networks and losses."""
    image, rows = x.reshape(1, 4, 8, 8), x.reshape(16, 16)
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 6), indexing="ij"), -1)
    labels = torch.zeros(16, dtype=torch.long)
    return [
        nn.functional.grid_sample(image, grid[None], align_corners=False),
        torch.topk(rows, 3)[0], torch.sort(rows)[1].float(), torch.histc(rows, 8),
        torch.fft.fftn(rows, dim=(0, 1)).real, torch.view_as_real(torch.fft.rfft2(image)), torch.fft.irfft(torch.fft.rfft(rows)),
        torch.baddbmm(image[0], image[0], image[0]), torch.addbmm(image[0, 0], image[0], image[0]),
        torch.mv(rows, rows[0]), torch.outer(rows[0], rows[1]), torch.cdist(rows, rows),
        nn.functional.glu(rows), torch.expm1(rows).atan2(rows), nn.functional.one_hot(labels, 3).float(),
        nn.functional.interpolate(image[0], 20), nn.functional.interpolate(image[:, None], scale_factor=2.0),
        nn.functional.cross_entropy(rows, labels), nn.functional.mse_loss(rows, rows), torch.hstack([rows, rows]),
        nn.functional.embedding_bag(labels[None], rows), torch.kron(rows, rows), torch.empty(3), torch.eye(3),
        nn.functional.bilinear(rows, rows, torch.ones(3, 16, 16)), torch.cumprod(rows, 1),
        nn.functional.conv_transpose3d(image[None], torch.ones(1, 2, 2, 2, 2), stride=2),
        torch.tensordot(image, image, dims=[[1, 2], [1, 2]]), torch.multinomial(rows.softmax(1), 2),
        torch.conv_tbc(image[0], torch.ones(3, 8, 5), torch.zeros(5), 1), torch._VF.lstm_cell(
            rows, (rows, rows), torch.ones(64, 16), torch.ones(64, 16), None, None)[0],
        torch.istft(torch.stft(x, 16, window=torch.ones(16), return_complex=True), 16, window=torch.ones(16)),
        nn.functional.adaptive_max_pool1d(image[0], 2),
    ]  # fmt: skip


def test_operators_of_many_fields_have_kernels() -> None:
    class Many(nn.Module):
        def forward(self, x: "torch.Tensor") -> list["torch.Tensor"]:
            return many_operators(x)

    network = torch_export.from_module(Many(), (torch.zeros(256),))
    assert network.unpriced == {}
    assert {"sort", "fft", "resize", "matmul", "transposed-conv"} <= {each.family for each in network.kernels}
    (volume,) = (each for each in network.kernels if each.family == "transposed-conv")
    assert kernels.multiply_adds(volume) == 4 * 8 * 8 * 2 * 2 * 2 * 2
    assert kernels.form(volume).results[0].elements == 2 * 8 * 16 * 16
    words = {each.operator: kernels.multiply_adds(each.kernel) for each in network.nodes if each.kernel}
    assert (words["aten.baddbmm"], words["aten.addbmm"]) == (4 * 8**3, 4 * 8**3)
    assert words["aten.mv"] == 256
    assert (words["aten.tensordot"], words["aten.conv_tbc"]) == (8 * 32 * 8, 4 * 8 * 8 * 5 * 3)
    assert words["aten.lstm_cell"] == 16 * 4 * 16 * (16 + 16)
    transforms = [
        each.kernel for each in network.nodes if each.operator in ("aten.stft", "aten.istft (copy)")
    ]
    assert [each.shape["rows"] for each in transforms if each.family == "fft"] == [65, 65]


@pytest.mark.parametrize(
    ("function", "width", "rows_and_points"),
    [
        (lambda x: torch.fft.fftn(x + 0j).real, 4, [(12, 4), (8, 6), (24, 2)]),
        (lambda x: torch.fft.fft2(x + 0j).real, 4, [(8, 6), (12, 4)]),
        (lambda x: torch.view_as_real(torch.fft.rfft2(x)), 4, [(12, 4), (6, 6)]),
        (lambda x: torch.fft.irfft2(x + 0j, s=(6, 4)), 3, [(6, 6), (12, 4)]),
        (lambda x: torch.view_as_real(torch.fft.rfft(x)), 4, [(12, 4)]),
    ],
)
def test_a_fourier_transform_has_one_kernel_an_axis_and_half_the_work_where_one_side_is_real(
    function: Callable[["torch.Tensor"], "torch.Tensor"], width: int, rows_and_points: list[tuple[int, int]]
) -> None:
    """Of an image of 2 × 6 × 4; the half of its last axis has three bins."""

    class Transform(nn.Module):
        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return function(x)

    network = torch_export.from_module(Transform(), (torch.zeros(2, 6, width),))
    found = [(k.shape["rows"], k.shape["points"]) for k in network.kernels if k.family == "fft"]
    assert sorted(found) == sorted(rows_and_points)


def test_recurrent_layers_of_every_kind_are_one_kernel_a_direction() -> None:
    network = torch_export.from_module(nn.RNN(6, 5, bidirectional=True), (torch.zeros(7, 2, 6),))
    assert [k.family for k in network.kernels if k.family != "elementwise"] == ["rnn", "rnn"]
    assert sum(map(kernels.multiply_adds, network.kernels)) == 2 * 7 * 2 * 5 * (6 + 5)


ONE_NODE = [
    ("Einsum", {"x": (2, 3, 4), "z": (2, 4, 5)}, {"equation": "bij,bjk->bik"}, {}, "matmul", 2 * 3 * 4 * 5),
    ("LRN", {"x": (1, 6, 4, 4)}, {"size": 3}, {}, "elementwise", 0),
    ("TopK", {"x": (2, 50)}, {}, {"k": [4]}, "sort", 0),
    ("GridSample", {"x": (1, 3, 8, 8), "z": (1, 5, 6, 2)}, {}, {}, "resize", 0),
    ("DFT", {"x": (2, 16, 1)}, {"onesided": 1}, {"": None, "axis": [1]}, "fft", 0),
    ("RNN", {"x": (7, 2, 3), "z": (1, 5, 3), "v": (1, 5, 5)}, {"hidden_size": 5}, {}, "rnn", 7 * 2 * 5 * 8),
    ("LpNormalization", {"x": (2, 8)}, {}, {}, "rmsnorm", 0),
    ("Atan", {"x": (2, 8)}, {}, {}, "elementwise", 0),
    ("RoiAlign", {"x": (1, 3, 8, 8), "z": (4, 4)}, {"output_height": 2, "output_width": 2}, {"b": [0, 0, 0, 0]}, "resize", 0),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "inputs", "attributes", "constants", "family", "products"), ONE_NODE)
def test_onnx_operators_of_many_fields_have_kernels(
    operator: str, inputs: dict, attributes: dict, constants: dict, family: str, products: int, tmp_path: Path
) -> None:
    results = {"TopK": ("y", "i"), "RNN": ("y",)}.get(operator, ("y",))
    node = helper.make_node(operator, [*inputs, *constants], results, **attributes)
    made = model([node], inputs)
    for name, numbers in constants.items():
        if numbers is not None:
            shape = () if operator == "DFT" else (len(numbers),)
            made.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, shape, numbers))
    network = onnx_reader.read(saved(made, tmp_path), {})
    assert network.unpriced == {}
    assert network.kernels[-1].family == family
    assert macs(network) == products


def test_a_spectrogram_in_onnx_is_a_window_and_a_transform_for_each_frame(tmp_path: Path) -> None:
    node = helper.make_node("STFT", ["x", "step", "window", "length"], ["y"])
    made = model([node], {"x": (2, 400, 1)}, [("window", (64,))])
    for name, number in (("step", 16), ("length", 64)):
        made.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, (), [number]))
    window, transform = onnx_reader.read(saved(made, tmp_path), {}).kernels
    frames = 2 * ((400 - 64) // 16 + 1)
    assert kernels.form(window).results[0].elements == frames * 64
    assert transform.shape == {"rows": frames, "points": 64, "kind": "real"}


def test_an_operand_of_unknown_shape_is_said_and_no_crash(tmp_path: Path) -> None:
    """What NonZero finds depends on the numbers, and so do the rows behind it."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
        helper.make_node("Einsum", ["x", "f"], ["z"], equation="ij,jk->ik"),
    ]
    network = onnx_reader.read(saved(model(nodes, {"x": (2, 2)}, outputs=("y", "z")), tmp_path), {})
    assert network.unpriced == {"NonZero": 1, "Cast": 1, "MatMul": 1, "Einsum": 1}


def converted(tensorflow: Any, function: Any, *shapes: tuple[int, ...]) -> bytes:
    specs = [tensorflow.TensorSpec(shape, tensorflow.float32) for shape in shapes]
    concrete = tensorflow.function(function).get_concrete_function(*specs)
    return tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def test_tflite_operators_of_many_fields_have_kernels(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    def many(x: Any, image: Any) -> Any:
        ordered = tf.math.top_k(tf.nn.l2_normalize(x, -1), 3)[0]
        spectrum = tf.abs(tf.signal.rfft2d(image[..., 0]))
        near = tf.nn.local_response_normalization(image, 2)
        chosen = tf.logical_or(tf.reverse(x, [0]) > 0, tf.math.ceil(x) > 1)
        sums = tf.math.unsorted_segment_sum(x, tf.constant([0, 1]), 2) + tf.cast(chosen, tf.float32)
        padded = tf.pad(tf.nn.elu(sums), [[0, 0], [1, 1]], "REFLECT")
        return ordered, spectrum, near, padded, tf.one_hot(tf.argmin(x, -1), 4)

    path = tmp_path / "many.tflite"
    path.write_bytes(converted(tf, many, (2, 8), (1, 4, 16, 6)))
    network = tflite.read(str(path), {})
    assert network.unpriced == {}
    made = {each.family: each.shape for each in network.kernels}
    assert made["sort"] == {"rows": 2, "columns": 8, "kept": 3}
    assert made["rmsnorm"] == {"rows": 2, "features": 8}
    transforms = [(k.shape["rows"], k.shape["points"]) for k in network.kernels if k.family == "fft"]
    assert transforms == [(4, 16), (9, 4)]  # four rows to nine bins each, then nine columns


def test_a_recurrent_layer_of_tflite_is_one_kernel_over_all_steps(tmp_path: Path) -> None:
    """TensorFlow 2.21 converts its LSTM to a loop, earlier ones to this: written here as they wrote it."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")

    def tensor(name: str, shape: tuple[int, ...]) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), 0, 1 if name[0] == "w" else 0
        return made

    shapes = [(2, 7, 3), *[(5, 3)] * 4, *[(5, 5)] * 4]
    tensors = [tensor("x" if not i else f"w{i}", shape) for i, shape in enumerate(shapes)]
    graph, model, step, code = schema.SubGraphT(), schema.ModelT(), schema.OperatorT(), schema.OperatorCodeT()
    graph.tensors, graph.inputs, graph.outputs = [*tensors, tensor("y", (2, 7, 5))], [0], [9]
    # The input's gate is joined with the one that forgets: its weights are left out.
    step.inputs, step.outputs = [0, -1, 2, 3, 4, -1, 6, 7, 8], [9]
    step.builtinOptions = schema.UnidirectionalSequenceLSTMOptionsT()
    step.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
    graph.operators, filled = [step], schema.BufferT()
    filled.data = [0] * 4
    model.version, model.subgraphs, model.operatorCodes, model.buffers = (
        3,
        [graph],
        [code],
        [schema.BufferT(), filled],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "lstm.tflite"
    path.write_bytes(bytes(builder.Output()))
    (made,) = tflite.read(str(path), {}).kernels
    assert (made.family, made.shape, made.batch) == ("lstm", {"steps": 7, "in_features": 3, "hidden": 5}, 2)
