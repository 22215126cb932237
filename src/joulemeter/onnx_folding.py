"""Sizes that an ONNX graph computes on the way: worked out, so that shape inference can go on behind them.

Exporters write a reshape's target as arithmetic on shapes (Shape, Gather, Concat …). Once the inputs' sizes
are fixed these are constants, of a few numbers each. They are computed by onnx's own reference implementation
of a few operators that only move and combine such numbers; nothing of the file is run, nothing large is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Values = dict[str, "np.ndarray[Any, Any]"]

_ODD = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError, AssertionError)

MOST_NODES = 5_000
"""Nodes that are worked out at once: real networks have some hundreds, and each takes a millisecond."""

MOST = 4096
"""Numbers that a result may have: sizes, axes and bounds have a few."""


def _largest(*operands: Any) -> int:
    """No more numbers than the operands have together."""
    return sum(np.size(each) for each in operands)


def _broadcast(*operands: Any) -> int:
    return math.prod(np.broadcast_shapes(*(np.shape(each) for each in operands)))


def _gathered(table: Any, at: Any, *_: Any) -> int:
    return int(np.size(table) * np.size(at))


def _ranged(start: Any, end: Any, step: Any) -> int:
    return int(abs((float(end) - float(start)) / float(step))) + 1


def _wanted(*operands: Any) -> int:
    return math.prod(abs(int(n)) for n in np.ravel(operands[-1]))


def _expanded(x: Any, shape: Any) -> int:
    return int(np.size(x) * _wanted(shape))


_MOVE = (
    "Cast", "Concat", "Floor", "Ceil", "Neg", "Abs", "Not", "Identity", "Reshape", "Slice", "Squeeze",
    "Unsqueeze", "Transpose", "Flatten", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "Sqrt",
)  # fmt: skip
_COMBINE = (
    "Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "And", "Or", "Where",
)  # fmt: skip
_LARGEST: dict[str, Callable[..., int]] = {
    **dict.fromkeys(_MOVE, _largest),
    **dict.fromkeys(_COMBINE, _broadcast),
    "Gather": _gathered,
    "Range": _ranged,
    "ConstantOfShape": _wanted,
    "Expand": _expanded,
}
"""Operators that are worked out, and how many numbers their results have at most."""


def fold(model: Any, shapes: Mapping[str, Shape | None]) -> bool:
    """Puts constants in place of those nodes of ``model`` that only depend on ``shapes``; whether there were
    any.

    ``shapes`` are those of tensors as far as they are known. Results that the graph hands out are left alone.
    """
    from onnx import numpy_helper

    graph = model.graph
    held = ((each.name, array_of(each)) for each in graph.initializer)
    known: Values = {name: values for name, values in held if values is not None}
    handed_out = {each.name for each in graph.output}
    kept: list[Any] = []
    made: list[Any] = []
    for node in graph.node:
        full = len(made) >= MOST_NODES or bool(handed_out & set(node.output))
        found = None if full else _value(node, known, shapes, model.opset_import)
        if found is None:
            kept.append(node)
            continue
        known[node.output[0]] = found
        if node.op_type != "Constant":
            made.append(numpy_helper.from_array(found, node.output[0]))
        else:
            kept.append(node)
    if made:
        kept = [type(each).FromString(each.SerializeToString()) for each in kept]
        del graph.node[:]
        graph.node.extend(kept)
        graph.initializer.extend(made)
    return bool(made)


def _value(node: Any, known: Values, shapes: Mapping[str, Shape | None], opset: Any) -> Any:
    """The constant that ``node`` makes; None where it depends on the data or would be large."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Shape" and node.input:
        return _shape_of(node, shapes.get(node.input[0]))
    if node.op_type == "Constant":
        return _constant(node)
    operands = [known.get(each) for each in node.input if each]
    most = _LARGEST.get(node.op_type)
    if most is None or not operands or any(each is None for each in operands):
        return None
    try:
        with np.errstate(all="raise"):
            return _computed(node, known, opset) if most(*operands) <= MOST else None
    except _ODD:
        # Whatever NumPy says of numbers that do not fit, shape inference will say of the node that is left.
        return None


def _shape_of(node: Any, shape: Shape | None) -> Any:
    if shape is None:
        return None
    ends = {each.name: each.i for each in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)


def _constant(node: Any) -> Any:
    for each in node.attribute:
        if each.name == "value":
            return array_of(each.t)
        if each.name == "value_int":
            return np.array(each.i, np.int64)
        if each.name == "value_ints" and len(each.ints) <= MOST:
            return np.array(each.ints, np.int64)
    return None


def array_of(tensor: Any) -> Any:
    """A tensor's numbers; None where they are many, elsewhere, or fewer than its sizes say."""
    from onnx import numpy_helper

    if tensor.external_data or math.prod(tensor.dims) > MOST:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except _ODD:
        return None


def _computed(node: Any, known: Values, opset: Any) -> Any:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [each for each in node.input if each]
    inputs = [
        helper.make_tensor_value_info(
            each, helper.np_dtype_to_tensor_dtype(known[each].dtype), known[each].shape
        )
        for each in dict.fromkeys(names)
    ]
    graph = helper.make_graph([node], "one", inputs, [helper.make_empty_tensor_value_info(node.output[0])])
    one = helper.make_model(graph, opset_imports=[each for each in opset if each.domain in ("", "ai.onnx")])
    (made,) = ReferenceEvaluator(one).run(None, {each: known[each] for each in names})
    made = np.asarray(made)
    return made if made.size <= MOST and made.dtype.kind in "iufb" else None
