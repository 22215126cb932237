"""ONNX: a model file read into kernels, by shape inference on its structure alone.

Weights are not loaded and external data is never opened. The order of the file is the order of the network; a
file whose nodes read what nothing before them wrote is refused. ``optimised`` asks ONNX Runtime to write the
graph it would really run, so that what it fuses is seen, not guessed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joulemeter import onnx_folding, subnormal
from joulemeter.errors import GraphError
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.kernel import DTYPE_BYTES, Kernel
from joulemeter.network import Network, Node
from joulemeter.onnx_operators import TABLE, Handler, Op

SUFFIXES = (".onnx",)

_MAX_BYTES = 1 << 31
"""Protocol buffers end here; larger networks keep their weights outside."""
_SMALL = 4096
"""Constants of up to so many numbers are kept: shapes and axes are among them; weights are not needed."""
_FEW = 16
"""Constants of up to so many numbers may be axes, sizes or bounds."""
_TEXT = 8
_ROUNDS = 20
"""Behind a reshape whose sizes are computed more shapes are known, and so more sizes."""
_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_QUANTISED = (
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "QAttention",
    "QGemm",
    "QLinearAdd",
)
_A_PART = "export a part of it"
_NO_FUNCTIONS = "export it without functions of its own"
_OTHER_SIZES = "--input with other sizes, or export it again"
# onnx.TensorProto.DataType
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
           11: "float64", 16: "bfloat16"}  # fmt: skip

Shape = tuple[int, ...]


def read(target: str, shapes: Shapes) -> Network:
    """The network in the ``.onnx`` file ``target``. Raises GraphError where it is torn, open in a size, of
    control flow, or not in an order it can run in."""
    return from_model(_load(target), target, shapes)


def _load(path: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = os.stat(path).st_size
        if size > _MAX_BYTES:
            fact = f"{path}: is {size >> 20} MiB, more than an ONNX file can be"
            raise GraphError(fact, "onnx.save(model, path, save_as_external_data=True)")
        with open(path, "rb") as file:
            model = onnx.ModelProto.FromString(file.read())
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({error.strerror})", "the path of a .onnx file") from error
    except DecodeError as error:
        raise GraphError(f"{path}: is torn or no ONNX file ({error})", "export it again") from error
    if not model.graph.node:
        raise GraphError(f"{path}: holds no graph, or is torn", "export it again")
    return model


def from_model(model: Any, name: str, shapes: Shapes | None = None) -> Network:
    """The network of an ``onnx.ModelProto``; its large initializers are thrown away first."""
    model = _inlined(model, name)
    _refuse(model, name)
    masks = _masks(model)
    weights = _strip(model)
    fixed = _fixed_inputs(model, name, shapes or {}, weights)
    seen = _inferred(model, name, weights)
    for _ in range(_ROUNDS):
        shapes_seen = {each: shape for each, (shape, _) in seen.items()}
        if None not in shapes_seen.values() or not onnx_folding.fold(model, shapes_seen):
            break
        seen = _inferred(model, name, weights)
    values = _small_values(model)
    reader = _Reader(name, seen, values, frozenset(weights))
    nodes: list[Node] = []
    for i, node in enumerate(model.graph.node):
        nodes += reader.nodes(node, node.name or f"{node.op_type}_{i}")
    nodes = subnormal.marked_nodes(nodes, masks | _masks_by_choice(model, values))
    read_once = {each for node in model.graph.node for each in node.input}
    parameters = float(sum(math.prod(shape) for each, shape in weights.items() if each in read_once))
    return Network(name, "onnx", tuple(nodes), fixed, parameters, tuple(_notes(model)))


def optimised(path: str, level: str = "extended") -> Network:
    """The network as ONNX Runtime's ``level`` (basic, extended, all) would run it: its own fusions, as
    kernels.
    """
    import tempfile

    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level.upper()}")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "optimised.onnx")
        try:
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's exceptions share no base but Exception; anything else than theirs goes on.
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise GraphError(
                f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0][:200]}",
                "pip install --upgrade onnxruntime, or export it again",
            ) from error
        return read(options.optimized_model_filepath, {})


def _inlined(model: Any, name: str) -> Any:
    """``model`` with the bodies of its own functions in place of their calls.

    They are counted first: nine functions, each called ten times by the next, are a billion nodes in 2 kB.
    """
    if not model.functions:
        return model
    from onnx import inliner

    bodies = {(each.domain, each.name): each for each in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Any, inside: tuple[tuple[str, str], ...]) -> int:
        """Nodes once every function among them is written out; raises GraphError where one calls itself."""
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in inside:
                raise GraphError(f"{name}: its function '{node.op_type}' calls itself", _NO_FUNCTIONS)
            if called in bodies and called not in counts:
                counts[called] = count(bodies[called].node, (*inside, called))
            total += counts.get(called, 1)
        return total

    try:
        nodes = count(model.graph.node, ())
    except RecursionError:
        fact = f"{name}: its functions call each other too deep to be followed"
        raise GraphError(fact, _NO_FUNCTIONS) from None
    if nodes > MAX_NODES:
        fact = f"{name}: has {nodes} nodes in its functions' calls, more than {MAX_NODES}"
        raise GraphError(fact, _A_PART)
    return inliner.inline_local_functions(model)


def _refuse(model: Any, name: str) -> None:
    """Says no to what cannot be priced, before any work on it."""
    count = len(model.graph.node)
    if count > MAX_NODES:
        raise GraphError(f"{name}: has {count} nodes, more than {MAX_NODES}", _A_PART)
    for node in model.graph.node:
        if node.op_type in _CONTROL:
            raise GraphError(
                f"{name}: node '{node.name}' is control flow ({node.op_type}): how often it runs is not "
                f"in the file",
                "export the branch or the unrolled loop that runs",
            )
    written = {
        each.name for each in (*model.graph.input, *model.graph.initializer, *model.graph.sparse_initializer)
    }
    for node in model.graph.node:
        missing = [each for each in node.input if each and each not in written]
        if missing:
            raise GraphError(
                f"{name}: node '{node.name or node.op_type}' reads '{missing[0]}', which nothing before it "
                f"writes: a cycle, or nodes out of order",
                "export it again",
            )
        written.update(node.output)


def _strip(model: Any) -> dict[str, Shape]:
    """Turns large initializers into mere shapes; returns the shapes of all."""
    from onnx import helper

    graph = model.graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    kept = [each for each in graph.initializer if math.prod(each.dims) <= _SMALL and not each.external_data]
    gone = [
        each for each in graph.initializer if not (math.prod(each.dims) <= _SMALL and not each.external_data)
    ]
    declared = {each.name for each in graph.input}
    values = [
        helper.make_tensor_value_info(e.name, e.data_type, e.dims) for e in gone if e.name not in declared
    ]
    kept = [type(each).FromString(each.SerializeToString()) for each in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.input.extend(values)
    return shapes


def _fixed_inputs(model: Any, name: str, shapes: Shapes, weights: Mapping[str, Shape]) -> dict[str, Shape]:
    """Writes the given shapes into the graph's inputs; raises GraphError where a size is left open."""
    fixed: dict[str, Shape] = {}
    users = [each for each in model.graph.input if each.name not in weights]
    symbols: dict[str, int] = {}
    for i, each in enumerate(users):
        dims = each.type.tensor_type.shape.dim
        given = shape_of(each.name, i == 0, shapes)
        if given is not None and dims and len(given) != len(dims):
            raise GraphError(
                f"{name}: input {each.name} has {len(dims)} dimensions, --input gives {len(given)}",
                f"--input {each.name}={','.join(str(max(dim.dim_value, 1)) for dim in dims)}",
            )
        for dim, n in zip(dims, given or (), strict=False):
            if dim.dim_param:
                symbols[dim.dim_param] = n
            elif 0 < dim.dim_value != n:
                fact = f"{name}: input {each.name} was exported with a fixed {dim.dim_value}, not {n}"
                raise GraphError(fact, "export it with that size open")
            dim.dim_value = n
        for dim in dims:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
        sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
        if any(not isinstance(size, int) or size <= 0 for size in sizes):
            text = ",".join(str(size) for size in sizes)
            raise GraphError(
                f"{name}: input {each.name} ({text}) leaves a size open", f"--input {each.name}=1,…"
            )
        fixed[each.name] = tuple(int(size) for size in sizes)
    return fixed


def _inferred(model: Any, name: str, weights: Mapping[str, Shape]) -> dict[str, tuple[Shape | None, str]]:
    """Shape and dtype of every tensor."""
    import onnx

    del model.graph.value_info[:]  # written for the sizes the file was exported with
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")
    imported = {each.domain for each in model.opset_import}
    for domain in sorted({node.domain for node in model.graph.node} - imported):
        model.opset_import.add(domain=domain, version=1)
    try:
        model = onnx.shape_inference.infer_shapes(_standard(model), data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        raise GraphError(
            f"{name}: its shapes do not fit together: {str(error).splitlines()[0][:200]}", _OTHER_SIZES
        ) from error
    found: dict[str, tuple[Shape | None, str]] = {
        each.name: (tuple(each.dims), _DTYPES.get(each.data_type, "float32"))
        for each in model.graph.initializer
    }
    for each in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = each.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        known = kind.HasField("shape") and all(dim is not None for dim in dims)
        shape = tuple(int(dim) for dim in dims if dim is not None) if known else None
        found[each.name] = (shape, _DTYPES.get(kind.elem_type, "float32"))
    kinds = {each.name: _DTYPES.get(each.data_type, "float32") for each in model.graph.initializer}
    found.update(
        {
            each: (shape, kinds.get(each, found.get(each, (None, "float32"))[1]))
            for each, shape in weights.items()
        }
    )
    return found


def _standard(model: Any) -> Any:
    """``model`` with standard operators of the same result shape in place of ONNX Runtime's own, which shape
    inference does not know."""
    if not any(node.domain.startswith("com.") for node in model.graph.node):
        return model
    model = type(model).FromString(model.SerializeToString())
    for node in model.graph.node:
        if node.domain.startswith("com."):
            _replace(node)
            node.domain = ""
    return model


def _replace(node: Any) -> None:
    from onnx import helper

    flags = {each.name: each.i for each in node.attribute}
    plain = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3), "Conv": ("Conv", 3), "Gemm": ("Gemm", 3)}
    if node.op_type in plain:
        kind, inputs = plain[node.op_type]
        left = [each for each in node.attribute if not each.name.startswith("activation")]
    elif node.op_type == "FusedMatMul":
        kind, inputs = "Einsum", 2
        a, b = ("ki" if flags.get("transA") else "ik"), ("jk" if flags.get("transB") else "kj")
        left = [helper.make_attribute("equation", f"...{a},...{b}->...ij")]
    else:
        kind, inputs, left = "Identity", 1, []
    kept, outputs = list(node.input)[:inputs], list(node.output)[:1]
    left = [type(each).FromString(each.SerializeToString()) for each in left]
    for field in ("input", "output", "attribute"):
        node.ClearField(field)
    node.op_type = kind
    node.input.extend(kept)
    node.output.extend(outputs)
    node.attribute.extend(left)


def _small_values(model: Any) -> dict[str, list[float]]:
    """The numbers of constants that say an axis, a size or a bound, wherever they stand; not those of torn
    ones.
    """
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        for each in node.attribute if node.op_type == "Constant" else ():
            if each.name == "value":
                constants[node.output[0]] = each.t
    few = (
        each for each in constants.items() if math.prod(each[1].dims) <= _FEW and each[1].data_type != _TEXT
    )
    held = {name: onnx_folding.array_of(each) for name, each in few}
    return {name: [float(n) for n in each.reshape(-1)] for name, each in held.items() if each is not None}


def _masks(model: Any) -> dict[str, float]:
    """The share of subnormal exponentials of each constant that is added and has some."""
    from onnx import numpy_helper

    added = {name for node in model.graph.node if node.op_type == "Add" for name in node.input}
    found = {
        each.name: subnormal.share_of(numpy_helper.to_array(each))
        for each in model.graph.initializer
        if each.name in added and each.data_type == 1 and not each.external_data
    }
    return {name: share for name, share in found.items() if share}


def _masks_by_choice(model: Any, values: Mapping[str, list[float]]) -> dict[str, float]:
    """The share taken for each result of ``Where`` that lowers what it chooses by about a hundred."""
    return {
        node.output[0]: subnormal.USUAL
        for node in model.graph.node
        if node.op_type == "Where"
        for value in [values.get(node.input[1], [])]
        if len(value) == 1 and subnormal.LOWEST < value[0] < subnormal.HIGHEST
    }


def _notes(model: Any) -> list[str]:
    quantised = sorted({node.op_type for node in model.graph.node if _is_quantised(node.op_type)})
    return (
        [f"quantised ({', '.join(quantised)}): its whole-number kernels are priced as such or not at all"]
        if quantised
        else []
    )


def _is_quantised(operator: str) -> bool:
    return operator in _QUANTISED or operator in (
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
    )


class _Reader:
    """Nodes of one graph into kernels."""

    def __init__(
        self,
        name: str,
        seen: Mapping[str, tuple[Shape | None, str]],
        values: Mapping[str, list[float]],
        weights: frozenset[str],
    ) -> None:
        self.name, self.seen, self.values, self.weights = name, seen, values, weights

    def nodes(self, node: Any, label: str) -> list[Node]:
        """The nodes of one ONNX node: none for constants, one without a kernel where nobody has a formula."""
        if node.op_type in ("Constant", "Shape", "Size", "ConstantOfShape"):
            return []
        op = self.op(node)
        module = _module(node, label)
        known = [each for each in (*node.input, *node.output) if each]
        moved = math.fsum(self.bytes(each) for each in known)
        handler = (
            TABLE.get(node.op_type)
            if node.domain in ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc")
            else None
        )
        why = "no formula for this operator" if handler is None else ""
        made: Sequence[Kernel] = ()
        if handler is not None:
            if any(
                self.seen.get(each, (None, ""))[0] is None
                for each in (*node.input[:1], *node.output[:1])
                if each
            ):
                why = "its shape is not known before it runs"
            else:
                made = self._kernels(handler, op, label)
                why = "" if made else "its shape is not known before it runs"
        reads, writes = tuple(each for each in node.input if each), tuple(node.output)
        if not made:
            return [Node(None, node.op_type, label, module, reads, writes, moved, why)] if why else []
        return list(_chained(made, node.op_type, label, module, reads, writes))

    def _kernels(self, handler: Handler, op: Op, label: str) -> Sequence[Kernel]:
        try:
            return handler(op)
        except (ValueError, LookupError, ArithmeticError) as error:
            if not all(op.known):
                return ()
            raise GraphError(
                f"{self.name}: node '{label}': its shapes do not fit together: {error}", _OTHER_SIZES
            ) from error

    def op(self, node: Any) -> Op:
        """The node as the table of operators wants it."""
        import onnx

        attributes: dict[str, Any] = {}
        for each in node.attribute:
            value = onnx.helper.get_attribute_value(each)
            attributes[each.name] = value.decode() if isinstance(value, bytes) else value
        named = [self.seen.get(each, (None, "float32")) for each in node.input]
        return Op(
            kind=node.op_type,
            domain=node.domain,
            inputs=tuple(shape or () for shape, _ in named),
            present=tuple(bool(each) for each in node.input),
            known=tuple(
                not each or shape is not None for each, (shape, _) in zip(node.input, named, strict=True)
            ),
            weights=tuple(each in self.weights for each in node.input),
            values=tuple(self.values.get(each) for each in node.input),
            out=self.seen.get(node.output[0], (None, ""))[0] or (),
            results=len(node.output),
            attributes=attributes,
            dtype=named[0][1] if named else "float32",
        )

    def bytes(self, tensor: str) -> float:
        """Bytes of a tensor; NaN where its shape is not known."""
        shape, dtype = self.seen.get(tensor, (None, "float32"))
        return math.nan if shape is None else math.prod(shape) * DTYPE_BYTES.get(dtype, math.nan)


def _module(node: Any, label: str) -> str:
    """The module an exporter says a node is from: PyTorch's in its metadata, older ones in its name."""
    for each in node.metadata_props:
        if each.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"[]") for part in each.value.split(",")]
            return scopes[-2] if len(scopes) > 1 else ""
    return label.rsplit("/", 1)[0].strip("/").replace("/", ".") if "/" in label else ""


def _chained(
    made: Sequence[Kernel],
    operator: str,
    label: str,
    module: str,
    reads: tuple[str, ...],
    writes: tuple[str, ...],
) -> Iterator[Node]:
    """Nodes for the kernels of one operator, each reading the one before."""
    for i, kernel in enumerate(made):
        last = i == len(made) - 1
        made_name = writes if last else (f"{label}+{i}",)
        yield Node(kernel, operator, label, module, reads, made_name)
        reads = made_name
