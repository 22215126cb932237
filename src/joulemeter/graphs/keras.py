"""Keras 3: a saved ``.keras`` model, by the layers its configuration lists.

Only the configuration's JSON is read: no layer is built, no lambda deserialised, no weights opened. A
functional
model carries the shape of everything each layer reads; a batch left open counts as one where none is given.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulemeter import layers
from joulemeter.errors import GraphError
from joulemeter.graphs import MAX_NODES, Shapes
from joulemeter.kernel import DTYPE_BYTES, Kernel
from joulemeter.network import Network, Node

SUFFIXES = (".keras",)

_MAX_JSON = 1 << 28
_MODELS = ("Functional", "Model")
# Activations by Keras's names; "linear" is none.
_ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "sigmoid": "sigmoid", "hard_sigmoid": "hardsigmoid", "hard_silu":
    "hswish",
    "hard_swish": "hswish", "silu": "silu", "swish": "silu", "gelu": "gelu", "tanh": "tanh", "elu": "elu",
    "leaky_relu": "leaky-relu",
}  # fmt: skip

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One use of a layer: its class, its settings and the shapes that it reads, images channels last."""

    kind: str
    name: str
    config: Mapping[str, Any]
    inputs: tuple[Shape, ...]
    reads: tuple[str, ...]
    dtype: str

    @property
    def x(self) -> Shape:
        """The first operand in the order batch × channels × space."""
        return self.image(self.inputs[0])

    def image(self, shape: Shape) -> Shape:
        """A shape in the order batch × channels × space."""
        first = self.config.get("data_format") == "channels_first"
        return shape if first or len(shape) not in (4, 5) else (shape[0], shape[-1], *shape[1:-1])

    def pair(self, name: str, otherwise: int = 1) -> list[int]:
        """A setting with a number for each space dimension."""
        value = self.config.get(name)
        dims = len(self.inputs[0]) - 2
        if value is None:
            return [otherwise] * dims
        return [int(value)] * dims if isinstance(value, int) else [int(each) for each in value]

    def activated(self, out: Shape) -> list[Kernel]:
        """The layer's own activation of its result."""
        return _activate(str(self.config.get("activation", "linear")), out, self.dtype)


def read(target: str, shapes: Shapes) -> Network:
    """The network in the ``.keras`` file ``target``. Raises GraphError where it is torn or not functional."""
    config = _config(target)
    batch = next((shape[0] for shape in shapes.values()), 1)
    try:
        nodes = list(_nodes(target, config, "", batch))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        fact = f"{target}: its configuration is not as Keras 3 writes it ({error!r})"
        raise GraphError(fact, "load it with Keras 3 and save it again") from error
    if len(nodes) > MAX_NODES:
        raise GraphError(f"{target}: has {len(nodes)} nodes, more than {MAX_NODES}", "save a part of it")
    return Network(target, "keras", tuple(nodes), _inputs(config, batch))


def _config(target: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(target) as archive:
            info = archive.getinfo("config.json")
            if info.file_size > _MAX_JSON:
                fact = f"{target}: its configuration is {info.file_size >> 20} MiB of text"
                raise GraphError(fact, "save it with its arrays as weights, not in the configuration")
            data = json.loads(archive.read(info))
    except (OSError, KeyError, zipfile.BadZipFile, ValueError, EOFError, RecursionError) as error:
        raise GraphError(f"{target}: is torn or no .keras file ({error})", "save it again") from error
    if not isinstance(data, dict) or data.get("class_name") not in _MODELS:
        kind = data.get("class_name") if isinstance(data, dict) else "nothing"
        remedy = "keras.Model(model.inputs, model.outputs).save(…)"
        raise GraphError(f"{target}: is a {kind}, which lists no shapes; a functional model does", remedy)
    return data


def _inputs(config: Mapping[str, Any], batch: int) -> dict[str, Shape]:
    inputs = [each for each in config["config"]["layers"] if each["class_name"] == "InputLayer"]
    return {each["name"]: _closed(each["config"]["batch_shape"], batch, each["name"]) for each in inputs}


def _closed(shape: Sequence[int | None], batch: int, name: str) -> Shape:
    """A shape with its open batch filled in; any other open size is refused."""
    if any(size is None for size in shape[1:]):
        raise GraphError(
            f"layer {name}: a size of {tuple(shape)} is left open", "save it with every size but the batch"
        )
    return tuple(batch if size is None else int(size) for size in shape)


def _nodes(target: str, model: Mapping[str, Any], prefix: str, batch: int) -> Iterator[Node]:
    for layer in model["config"]["layers"]:
        if layer["class_name"] == "InputLayer":
            continue
        name = f"{prefix}{layer['name']}"
        if layer["class_name"] in _MODELS:
            yield from _nodes(target, layer, f"{name}.", batch)
            continue
        for use in layer["inbound_nodes"]:
            tensors = list(_tensors([use["args"], use["kwargs"]]))
            inputs = tuple(_closed(each["shape"], batch, name) for each in tensors)
            reads = tuple(f"{prefix}{each['keras_history'][0]}" for each in tensors)
            yield from _layer_nodes(
                _Layer(layer["class_name"], name, layer["config"], inputs, reads, _dtype(layer))
            )


def _tensors(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every tensor among a call's arguments, however nested."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _dtype(layer: Mapping[str, Any]) -> str:
    policy = layer["config"].get("dtype")
    name = policy["config"]["name"] if isinstance(policy, Mapping) else policy
    return {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}.get(str(name), str(name or "float32"))


def _layer_nodes(layer: _Layer) -> Iterator[Node]:
    handler = _TABLE.get(layer.kind)
    if handler is None or not layer.inputs:
        moved = math.fsum(math.prod(each) * DTYPE_BYTES.get(layer.dtype, math.nan) for each in layer.inputs)
        # What it writes is not in the file: as much as it reads is the best guess of its bytes.
        yield Node(
            None,
            layer.kind,
            layer.name,
            layer.name,
            layer.reads,
            (layer.name,),
            2 * moved,
            "no formula for it",
        )
        return
    made = list(handler(layer))
    reads = layer.reads
    for i, kernel in enumerate(made):
        writes = (layer.name,) if i == len(made) - 1 else (f"{layer.name}+{i}",)
        yield Node(kernel, layer.kind, layer.name, layer.name, reads, writes)
        reads = writes


Handler = Callable[[_Layer], Sequence[Kernel]]


def _activate(name: str, out: Shape, dtype: str) -> list[Kernel]:
    if name == "linear":
        return []
    if name in ("softmax", "log_softmax"):
        return [layers.softmax(out, -1, dtype)]
    family = _ACTIVATIONS.get(name)
    return (
        [layers.activation(family, out, False, dtype)]
        if family
        else [layers.elementwise(out, 1, name, dtype)]
    )


def _windows(
    layer: _Layer, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], Shape]:
    """The padding along each axis, and the size of the result."""
    space = layer.x[2:]
    pads = [0] * len(space)
    if layer.config.get("padding") == "same":
        pads = [
            layers.same_padding(n, k, s, d) for n, k, s, d in zip(space, size, stride, dilation, strict=True)
        ]
        return pads, tuple(-(-n // s) for n, s in zip(space, stride, strict=True))
    whole = zip(space, size, stride, dilation, strict=True)
    return pads, tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in whole)


def _conv(layer: _Layer) -> Sequence[Kernel]:
    size, stride, dilation = layer.pair("kernel_size"), layer.pair("strides"), layer.pair("dilation_rate")
    depthwise = layer.kind.startswith("Depthwise")
    x = layer.x
    groups = x[1] if depthwise else int(layer.config.get("groups", 1))
    out = x[1] * int(layer.config.get("depth_multiplier", 1)) if depthwise else int(layer.config["filters"])
    pads, space = _windows(layer, size, stride, dilation)
    weight = (out, x[1] // groups, *size)
    bias = bool(layer.config.get("use_bias", True))
    made = layers.convolution(x, weight, stride, pads, dilation, groups, bias, layer.dtype)
    return [made, *layer.activated((x[0], out, *space))]


def _transposed(layer: _Layer) -> Sequence[Kernel]:
    size, stride = layer.pair("kernel_size"), layer.pair("strides")
    out, x = int(layer.config["filters"]), layer.x
    same = layer.config.get("padding") == "same"
    # "same": n·s results, so that (n − 1)s + k − 2p + extra = n·s.
    pads = [max(0, -(-(k - s) // 2)) if same else 0 for k, s in zip(size, stride, strict=True)]
    extra = [max(0, 2 * p - k + s) if same else 0 for p, k, s in zip(pads, size, stride, strict=True)]
    bias = bool(layer.config.get("use_bias", True))
    return [layers.transposed_convolution(x, (x[1], out, *size), stride, pads, extra, 1, bias, layer.dtype)]


def _dense(layer: _Layer) -> Sequence[Kernel]:
    x, units = layer.inputs[0], int(layer.config["units"])
    bias = bool(layer.config.get("use_bias", True))
    made = layers.fully_connected(math.prod(x[:-1]), x[-1], units, bias, layer.dtype)
    return [made, *layer.activated((*x[:-1], units))]


def _batch_norm(layer: _Layer) -> Sequence[Kernel]:
    return [layers.batch_norm(layer.x if len(layer.x) > 3 else (*layer.x, 1, 1)[:4], layer.dtype)]


def _layer_norm(layer: _Layer) -> Sequence[Kernel]:
    x = layer.inputs[0]
    return [layers.row_norm("rmsnorm" if "RMS" in layer.kind else "layernorm", x, x[-1], layer.dtype)]


def _activation(layer: _Layer) -> Sequence[Kernel]:
    return _activate(str(layer.config["activation"]), layer.x, layer.dtype) or [layers.view(layer.dtype)]


def _relu(layer: _Layer) -> Sequence[Kernel]:
    return [
        layers.activation(
            "relu6" if layer.config.get("max_value") == 6 else "relu", layer.x, False, layer.dtype
        )
    ]


def _softmax(layer: _Layer) -> Sequence[Kernel]:
    return [layers.softmax(layer.inputs[0], -1, layer.dtype)]


def _merged(family: str) -> Handler:
    def made(layer: _Layer) -> Sequence[Kernel]:
        """Each operand after the first is merged in turn."""
        first, *others = (layer.image(each) for each in layer.inputs)
        return [layers.binary(family, first, other, False, layer.dtype) for other in others]

    return made


def _concat(layer: _Layer) -> Sequence[Kernel]:
    axis = int(layer.config.get("axis", -1))
    rank = len(layer.inputs[0])
    if rank in (4, 5) and axis % rank == rank - 1:
        return [layers.concat([layer.image(each) for each in layer.inputs], 1, layer.dtype)]
    return [layers.concat(layer.inputs, axis, layer.dtype)]


def _pool(kind: str) -> Handler:
    def made(layer: _Layer) -> Sequence[Kernel]:
        """A window over the image, as the layer's configuration says."""
        size = layer.pair("pool_size", 2)
        stride = layer.pair("strides") if layer.config.get("strides") else size
        pads, _ = _windows(layer, size, stride, [1] * len(size))
        return [layers.pool(kind, layer.x, size, stride, pads, False, layer.dtype)]

    return made


def _global_pool(layer: _Layer) -> Sequence[Kernel]:
    return [layers.global_pool(layer.x, layer.dtype)]


def _attention(layer: _Layer) -> Sequence[Kernel]:
    """MultiHeadAttention: four projections around the attention."""
    n, length, width = layer.inputs[0]
    keys = layer.inputs[1][1]
    heads, each = int(layer.config["num_heads"]), int(layer.config["key_dim"])
    value = int(layer.config.get("value_dim") or each)
    bias = bool(layer.config.get("use_bias", True))
    rows = (
        (n * length, width, heads * each),
        (n * keys, width, heads * each),
        (n * keys, width, heads * value),
    )
    projections = [layers.fully_connected(*row, bias, layer.dtype) for row in rows]
    inner = layers.attention((n, heads, length, each), (n, heads, keys, each), layer.dtype)
    return [*projections, inner, layers.fully_connected(n * length, heads * value, width, bias, layer.dtype)]


def _embedding(layer: _Layer) -> Sequence[Kernel]:
    entries, width = int(layer.config["input_dim"]), int(layer.config["output_dim"])
    return [layers.embedding(math.prod(layer.inputs[0]), entries, width, layer.dtype)]


def _recurrent(family: str) -> Handler:
    def made(layer: _Layer) -> Sequence[Kernel]:
        """One layer over all steps of the sequence."""
        n, steps, features = layer.inputs[0]
        return [layers.recurrent(family, steps, n, features, int(layer.config["units"]), layer.dtype)]

    return made


def _resize(layer: _Layer) -> Sequence[Kernel]:
    size = [n * k for n, k in zip(layer.x[2:], layer.pair("size", 2), strict=True)]
    return [layers.resize(layer.x, size, str(layer.config.get("interpolation", "nearest")), layer.dtype)]


def _view(layer: _Layer) -> Sequence[Kernel]:
    return [layers.view(layer.dtype)]


def _copy(layer: _Layer) -> Sequence[Kernel]:
    return [layers.plain_copy(layer.inputs[0], layer.dtype)]


def _elementwise(layer: _Layer) -> Sequence[Kernel]:
    return [layers.elementwise(layer.inputs[0], 1, layer.kind.lower(), layer.dtype)]


_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D", _conv),
    ("Conv2DTranspose", _transposed),
    ("Dense", _dense),
    ("BatchNormalization", _batch_norm),
    ("LayerNormalization RMSNormalization", _layer_norm),
    ("Activation", _activation),
    ("ReLU", _relu),
    ("Softmax", _softmax),
    ("Add", _merged("add")),
    ("Multiply", _merged("mul")),
    ("Subtract", _merged("sub")),
    ("Concatenate", _concat),
    ("MaxPooling2D", _pool("maxpool")),
    ("AveragePooling2D", _pool("avgpool")),
    ("GlobalAveragePooling2D GlobalMaxPooling2D", _global_pool),
    ("MultiHeadAttention", _attention),
    ("Embedding", _embedding),
    ("LSTM", _recurrent("lstm")),
    ("GRU", _recurrent("gru")),
    ("UpSampling2D", _resize),
    ("Flatten Reshape Dropout SpatialDropout2D GaussianNoise Identity", _view),
    ("ZeroPadding2D Cropping2D Permute", _copy),
    ("Rescaling Normalization LeakyReLU ELU PReLU", _elementwise),
)
_TABLE: dict[str, Handler] = {name: handler for names, handler in _BY_HANDLER for name in names.split()}
