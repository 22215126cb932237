"""Files of PyTorch programs that ``torch.export`` saved.

A ``.pt2`` is a zip whose ``models/*.json`` holds the graph with every shape; only that text is read. Weights
stay where they are, and nothing in the file is unpickled.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from joulemeter import aten, subnormal
from joulemeter.errors import GraphError
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.network import Network
from joulemeter.traced import WRAPS, Call, Tensor, tensors_in

SUFFIXES = (".pt2",)

_MAX_JSON = 1 << 30
# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 12: "bool", 13: "bfloat16",
}  # fmt: skip


def read(path: str, shapes: Shapes) -> Network:
    """The network in a ``.pt2`` file; it is of the mode, inference or training, that it was exported in."""
    data = _json(path)
    try:
        graph, signature = data["graph_module"]["graph"], data["graph_module"]["signature"]
        return _from_json(path, graph, signature, shapes)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        raise GraphError(
            f"{path}: its graph is not as torch.export writes it ({error!r})", "export and save it again"
        ) from error


def _json(path: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [
                each
                for each in archive.infolist()
                if "models/" in each.filename and each.filename.endswith(".json")
            ]
            if not found:
                raise GraphError(
                    f"{path}: holds no exported program", "torch.export.save(torch.export.export(…), path)"
                )
            if found[0].file_size > _MAX_JSON:
                fact = f"{path}: its graph is {found[0].file_size >> 20} MiB of text"
                raise GraphError(fact, "export a part of it")
            data = json.loads(archive.read(found[0]))
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, RecursionError) as error:
        raise GraphError(f"{path}: is torn or no .pt2 ({error})", "save it again") from error
    if not isinstance(data, dict):
        raise GraphError(f"{path}: its graph is no JSON object", "save it again")
    return data


def _from_json(path: str, graph: Any, signature: Any, shapes: Shapes) -> Network:
    nodes_in, values = _flat(graph)
    if not nodes_in:
        raise GraphError(f"{path}: its graph has no operators", "save it again")
    if len(nodes_in) > MAX_NODES:
        fact = f"{path}: has {len(nodes_in)} nodes, more than {MAX_NODES}"
        raise GraphError(fact, "export a part of it")
    specs = [each for entry in signature["input_specs"] for each in entry.values()]
    constant = {each["arg"]["name"] for each in specs if "name" in each.get("arg", {})}
    users = [each["user_input"]["arg"]["as_tensor"]["name"] for each in signature["input_specs"]
             if "as_tensor" in each.get("user_input", {}).get("arg", {})]  # fmt: skip
    sizes = _symbols(path, users, graph["tensor_values"], shapes)
    table = {name: _json_tensor(name, meta, sizes, name in constant) for name, meta in values.items()}
    calls = [_json_call(node, table, sizes) for node in nodes_in]
    nodes = subnormal.marked(((call, aten.nodes(call, path)) for call in calls), {})
    named = {each["parameter"]["arg"]["name"] for each in signature["input_specs"] if "parameter" in each}
    parameters = float(sum(math.prod(table[name].shape) for name in named if name in table))
    inputs = {name: table[name].shape for name in users}
    return Network(path, "torch.export", tuple(nodes), inputs, parameters)


def _flat(
    graph: Any, names: Mapping[str, str] | None = None, prefix: str = ""
) -> tuple[list[Any], dict[str, Any]]:
    """The nodes of a graph and the metadata of its tensors, with the graphs that it wraps in place of their
    calls: a block under ``torch.autocast`` is one. ``names`` are those that its inputs and results have
    outside; all others get the ``prefix``."""
    names = names or {}

    def outside(name: str) -> str:
        """What a tensor is called in the whole."""
        return names.get(name, prefix + name)

    values = {outside(name): meta for name, meta in graph["tensor_values"].items()}
    nodes: list[Any] = []
    for node in graph["nodes"]:
        inputs = [_renamed(each, outside) for each in node["inputs"]]
        outputs = [_renamed(each, outside) for each in node["outputs"]]
        held = next((i for i, each in enumerate(inputs) if "as_graph" in each["arg"]), None)
        if held is None or str(node["target"]).rpartition(".")[2] not in WRAPS:
            nodes.append(
                {**node, "inputs": inputs, "outputs": outputs, "name": outside(str(node.get("name") or ""))}
            )
            continue
        inner = inputs[held]["arg"]["as_graph"]["graph"]
        operands = [each["arg"] for each in inputs[held + 1 :] if "as_string" not in each["arg"]]
        passed = zip((*inner["inputs"], *inner["outputs"]), (*operands, *_each(outputs)), strict=True)
        known = {
            mine["as_tensor"]["name"]: theirs["as_tensor"]["name"]
            for mine, theirs in passed
            if "as_tensor" in mine and "as_tensor" in theirs
        }
        more, inside = _flat(inner, known, f"{prefix}{node.get('name') or len(nodes)}.")
        nodes += more
        values = {**inside, **values}
    return nodes, values


def _each(outputs: Sequence[Any]) -> Iterator[Any]:
    """Results one by one, those handed out as a list too."""
    for each in outputs:
        if "as_tensors" in each:
            yield from ({"as_tensor": one} for one in each["as_tensors"])
        else:
            yield each


def _renamed(argument: Any, outside: Callable[[str], str]) -> Any:
    """An argument with the names that its tensors have in the whole."""
    if "arg" in argument:
        return {**argument, "arg": _renamed(argument["arg"], outside)}
    ((kind, content),) = argument.items()
    if kind == "as_tensor":
        return {kind: {**content, "name": outside(content["name"])}}
    if kind == "as_tensors":
        return {kind: [{**each, "name": outside(each["name"])} for each in content]}
    if kind == "as_optional_tensors":
        return {kind: [_renamed(each, outside) if "as_tensor" in each else each for each in content]}
    return argument


def _symbols(path: str, users: list[str], metas: Mapping[str, Any], shapes: Shapes) -> Callable[[Any], int]:
    """A function that gives a size as a number; symbols stand for what ``shapes`` gives their inputs."""
    known: dict[str, int] = {}
    for i, name in enumerate(users):
        given = shape_of(name, i == 0, shapes)
        sizes = metas[name]["sizes"]
        if given is not None and len(given) != len(sizes):
            raise GraphError(
                f"{path}: input {name} has {len(sizes)} dimensions, --input gives {len(given)}",
                f"--input {name}={','.join(str(size.get('as_int', 1)) for size in sizes)}",
            )
        for size, n in zip(sizes, given or (), strict=False):
            if "as_int" in size and size["as_int"] != n:
                raise GraphError(f"{path}: input {name} was exported with a fixed {size['as_int']}, not {n}",
                                 "export it with dynamic_shapes")  # fmt: skip
            if "as_expr" in size:
                known[_symbol(size["as_expr"]["expr_str"])] = n

    def number(size: Any) -> int:
        """A size: a number, or an expression of symbols that are known."""
        if "as_int" in size:
            return int(size["as_int"])
        expression = size["as_expr"]["expr_str"]
        try:
            return _arithmetic(ast.parse(expression, mode="eval").body, known)
        except (KeyError, SyntaxError, ZeroDivisionError, ValueError, IndexError) as error:
            fact = f"{path}: size {expression} of its inputs ({', '.join(users)}) is left open"
            raise GraphError(fact, "--input 1,3,224,224, with a number for every size") from error

    return number


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: operator.floordiv,
}
# Sizes are written as sympy's srepr, or as plain arithmetic.
_FUNCTIONS: dict[str, Callable[..., int]] = {
    "Integer": int,
    "Add": lambda *terms: sum(terms),
    "Mul": lambda *factors: math.prod(factors),
    "Pow": lambda base, power: base ** min(power, 16),
    "Max": max,
    "Min": min,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "CeilDiv": lambda a, b: -(-a // b),
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}


def _symbol(expression: str) -> str:
    """The name of a lone symbol: ``s77`` of ``Symbol('s77', integer=True)``; any other text as it is."""
    node = ast.parse(expression, mode="eval").body
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol":
        return str(ast.literal_eval(node.args[0]))
    return expression


def _arithmetic(node: ast.expr, known: Mapping[str, int]) -> int:
    """A size's expression worked out: whole numbers, names, + − × ÷ and a few functions; nothing else
    runs.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_arithmetic(node.operand, known)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_arithmetic(node.left, known), _arithmetic(node.right, known))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol":
        return known[str(ast.literal_eval(node.args[0]))]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        return _FUNCTIONS[node.func.id](*(_arithmetic(each, known) for each in node.args))
    raise KeyError(ast.unparse(node))


def _json_tensor(name: str, meta: Any, number: Callable[[Any], int], constant: bool) -> Tensor:
    shape, strides = (tuple(number(each) for each in meta[key]) for key in ("sizes", "strides"))
    return Tensor(name, shape, strides, _DTYPES.get(meta["dtype"], "float32"), constant)


def _json_call(node: Any, table: Mapping[str, Tensor], number: Callable[[Any], int]) -> Call:
    """One node of the JSON graph: ``torch.ops.aten.conv2d.default`` and its arguments."""

    def value(arg: Any) -> Any:
        """An argument by the one key that says its kind."""
        kind, content = next(iter(arg.items()))
        if kind in ("as_tensor", "as_tensors"):
            return (
                table[content["name"]] if kind == "as_tensor" else [table[each["name"]] for each in content]
            )
        if kind == "as_optional_tensors":
            return [table[each["as_tensor"]["name"]] if "as_tensor" in each else None for each in content]
        if kind in ("as_sym_int", "as_sym_ints"):
            return None
        return None if kind == "as_none" else content

    arguments = {each["name"]: value(each["arg"]) for each in node["inputs"]}
    results = [x for each in node["outputs"] for x in tensors_in([value(each)])]
    parts = str(node["target"]).split(".")
    namespace, bare = (
        (parts[2], parts[3]) if parts[:2] == ["torch", "ops"] and len(parts) > 3 else ("torch", parts[-1])
    )
    stack = str(node["metadata"].get("nn_module_stack", "")).split(";")[-1].split(",")
    module = stack[1] if len(stack) > 2 else ""
    name = str(node.get("name") or (results[0].name if results else bare))
    call = Call(bare, name, arguments, tuple(results), module, namespace)
    return replace(call, tensors=tuple(tensors_in(arguments)))
