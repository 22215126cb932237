"""PyTorch: programs exported by ``torch.export``, from a ``.pt2`` file or straight from a module.

A ``.pt2`` is a zip whose ``models/*.json`` holds the graph with every shape; only that text is read. Weights
stay where they are, and nothing in the file is unpickled.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import logging
import math
import operator
import re
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import Any

from joulemeter import aten, subnormal
from joulemeter.errors import GraphError, UsageError, nearest
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.network import Network, Node
from joulemeter.traced import Call, Tensor

SUFFIXES = (".pt2", ":")

_MAX_JSON = 1 << 30
# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 12: "bool", 13: "bfloat16",
}  # fmt: skip
# Files that are not the user's own: installed packages, Python's, and this one.
_OTHERS = re.compile(r"site-packages|dist-packages|[\\/]lib[\\/]python3|^<|torch_export\.py$")
_CONTROL = ("cond", "while_loop", "map_impl", "scan", "associative_scan")


def read(target: str, shapes: Shapes) -> Network:
    """The network in a ``.pt2`` file, or of the module that ``module:function`` returns."""
    if target.endswith(".pt2"):
        return _from_file(target, shapes)
    module, arguments, keywords = load(target, shapes)
    return from_module(module.eval(), arguments, keywords, name=target)


def read_training(target: str, shapes: Shapes) -> Network:
    """As ``read``, of the module as it is trained: with dropout, and norms by the batch's own statistics. A
    ``.pt2`` file is of the mode it was exported in."""
    if target.endswith(".pt2"):
        return _from_file(target, shapes)
    module, arguments, keywords = load(target, shapes)
    return from_module(module.train(), arguments, keywords, name=target)


def load(target: str, shapes: Shapes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The module that ``module:function`` makes, with arguments of ``shapes`` to call it with.

    The function returns a module, or a module and its example arguments (a tuple, or a dict of keywords).
    Modules of the current folder are found. What the function prints goes to stderr: stdout is the price's.
    Raises UsageError where it is not there, or raises something itself.
    """
    import os

    file, _, attribute = target.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with redirect_stdout(sys.stderr):
        made = _made(target, file, attribute)
    module, arguments = made if isinstance(made, tuple) else (made, None)
    if not hasattr(module, "state_dict"):
        raise UsageError(
            f"{target} returned a {type(module).__name__}", "return a torch.nn.Module, or one and its inputs"
        )
    if shapes:
        arguments = _examples(shapes, arguments)
    if arguments is None:
        raise UsageError(f"{target}: the shape of its input is not known", "--input 1,3,224,224")
    if isinstance(arguments, Mapping):
        return module, (), dict(arguments)
    return module, arguments if isinstance(arguments, tuple) else (arguments,), {}


def _made(target: str, file: str, attribute: str) -> Any:
    """What ``attribute`` of the module ``file`` is, or returns where it is no network itself."""
    try:
        module = importlib.import_module(file)
        if not hasattr(module, attribute):
            raise UsageError(f"{target}: {file} has no '{attribute}'", nearest(f"{file}:", module, attribute))
        function = getattr(module, attribute)
        return function if hasattr(function, "state_dict") else function()
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == file.partition(".")[0]:
            remedy = "run where the module can be imported, such as its own folder"
            raise UsageError(f"{target}: {error}", remedy) from error
        raise UsageError(
            f"{target}: {_said(error)}", f'python -c "import {file}; {file}.{attribute}()"'
        ) from error


def _said(error: BaseException) -> str:
    """The error in one line: its kind, what it says first, and where it was raised."""
    text = str(error).strip().partition("\n")[0][:200]
    kind = type(error).__name__
    return (f"{kind}: {text}" if text else kind) + ("" if isinstance(error, SyntaxError) else _place(error))


def _place(error: BaseException) -> str:
    """The last of the user's own lines that the error came through; nothing where there is none."""
    own = [each for each in traceback.extract_tb(error.__traceback__) if not _OTHERS.search(each.filename)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _examples(shapes: Shapes, given: Any) -> Any:
    """Tensors of ``shapes``, of the dtypes of ``given`` where there are some."""
    import torch

    def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
        """An input of zeros; raises UsageError where no memory holds it."""
        try:
            return torch.zeros(shape, dtype=dtype)
        except RuntimeError as error:
            fact = f"an input of {' × '.join(map(str, shape))} does not fit into memory"
            raise UsageError(fact, "--input with smaller sizes") from error

    if isinstance(given, Mapping):
        named = {"": next(iter(given)), **{name: name for name in given}}
        changed = {named.get(name, name): shape for name, shape in shapes.items()}
        return {name: zeros(changed.get(name, tuple(x.shape)), x.dtype) for name, x in given.items()}
    like = given if isinstance(given, tuple) else () if given is None else (given,)
    dtypes = [x.dtype for x in like]
    made = [
        zeros(shape, dtypes[i] if i < len(dtypes) else torch.float32)
        for i, shape in enumerate(shapes.values())
    ]
    return (*made, *like[len(made) :])


def from_module(
    module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any] | None = None, name: str = ""
) -> Network:
    """The network of a PyTorch module called with ``arguments``; raises GraphError where it cannot be
    exported.
    """
    import torch
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode as unforeseen

    name = name or type(module).__name__
    with torch.no_grad(), _silent():
        try:
            program = torch.export.export(module, arguments, keywords or {})
        except unforeseen as error:
            fact = f"{name}: what runs depends on the numbers in its input{_place(error)}"
            raise GraphError(fact, "export the branch or the size that runs") from error
        except Exception as error:
            raise GraphError(
                f"{name}: torch.export cannot read it: {_said(error)}",
                "call it in PyTorch with that input; where that works, predict its torch.onnx.export",
            ) from error
        try:
            return from_program(program, name)
        except unforeseen as error:
            fact = f"{name}: how large a tensor is depends on the numbers in it ({_opened(program)})"
            raise GraphError(fact, "export the part of fixed size") from error


def _opened(program: Any) -> str:
    """The first operator of a program whose result's size is not known before it has run."""
    for node in program.graph.nodes:
        sizes = getattr(node.meta.get("val"), "shape", ())
        if any(not str(size).isdigit() for size in sizes):
            return str(getattr(node.target, "__name__", node.target))
    return "an operator"


@contextmanager
def _silent() -> Iterator[None]:
    """Without what PyTorch warns, logs and prints while it exports (advice to whoever exports, or the whole
    graph so far); what the network itself prints goes to stderr, as stdout is the price's."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def from_program(program: Any, name: str) -> Network:
    """The network of a ``torch.export.ExportedProgram``."""
    signature = program.graph_signature
    constant = {
        *signature.inputs_to_parameters,
        *signature.inputs_to_buffers,
        *signature.inputs_to_lifted_tensor_constants,
    }
    calls = [
        _fx_call(node, constant)
        for node in program.graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]
    nodes = subnormal.marked(((call, _nodes(call, name)) for call in calls), subnormal.shares(program))
    inputs = {
        node.name: tuple(int(n) for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in signature.user_inputs
        and hasattr(node.meta.get("val"), "shape")
    }
    parameters = float(sum(math.prod(each.shape) for _, each in program.named_parameters()))
    return Network(name, "torch.export", tuple(nodes), inputs, parameters)


def _nodes(call: Call, name: str) -> list[Node]:
    if call.operator in _CONTROL:
        raise GraphError(
            f"{name}: '{call.name}' is control flow ({call.operator}): how often it runs is not in the graph",
            "export the branch or the unrolled loop that runs",
        )
    return aten.nodes(call)


def _fx_call(node: Any, constant: set[str]) -> Call:
    """One node of an fx graph."""

    def value(x: Any) -> Any:
        """An argument: tensors by their metadata, lists item by item, anything else as it is."""
        if hasattr(x, "meta"):
            val = x.meta.get("val")
            return _fx_tensor(x.name, val, constant) if hasattr(val, "stride") else _plain(val)
        return [value(each) for each in x] if isinstance(x, list | tuple) else _plain(x)

    schema = getattr(node.target, "_schema", None)
    names = [each.name for each in schema.arguments] if schema is not None else []
    arguments = {name: value(x) for name, x in zip(names, node.args, strict=False)}
    arguments |= {name: value(x) for name, x in node.kwargs.items()}
    val = node.meta.get("val")
    many = isinstance(val, list | tuple)
    results = tuple(
        _fx_tensor(_part(node, i) if many else node.name, each, constant)
        for i, each in enumerate(val if isinstance(val, list | tuple) else (val,))
        if hasattr(each, "stride")
    )
    namespace, _, operator_name = str(
        getattr(node.target, "name", lambda: node.target.__name__)()
    ).rpartition("::")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = stack[-1][0] if stack else ""
    bare = operator_name.partition(".")[0]
    return Call(
        bare, node.name, arguments, results, str(module), namespace or "torch", tuple(_tensors(arguments))
    )


def _part(node: Any, index: int) -> str:
    """The name under which others read result ``index`` of a node with several."""
    taken = [user.name for user in node.users if user.target is operator.getitem and user.args[1] == index]
    return taken[0] if taken else f"{node.name}.{index}"


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | int | float) or value is None:
        return value
    return int(value) if type(value).__name__ == "SymInt" else str(value)


def _fx_tensor(name: str, val: Any, constant: set[str]) -> Tensor:
    dtype = str(val.dtype).removeprefix("torch.")
    return Tensor(
        name, tuple(int(n) for n in val.shape), tuple(int(n) for n in val.stride()), dtype, name in constant
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _from_file(path: str, shapes: Shapes) -> Network:
    data = _json(path)
    try:
        graph, signature = data["graph_module"]["graph"], data["graph_module"]["signature"]
        return _from_json(path, graph, signature, shapes)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
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
    if not graph["nodes"]:
        raise GraphError(f"{path}: its graph has no operators", "save it again")
    if len(graph["nodes"]) > MAX_NODES:
        fact = f"{path}: has {len(graph['nodes'])} nodes, more than {MAX_NODES}"
        raise GraphError(fact, "export a part of it")
    specs = [each for entry in signature["input_specs"] for each in entry.values()]
    constant = {each["arg"]["name"] for each in specs if "name" in each.get("arg", {})}
    users = [each["user_input"]["arg"]["as_tensor"]["name"] for each in signature["input_specs"]
             if "as_tensor" in each.get("user_input", {}).get("arg", {})]  # fmt: skip
    sizes = _symbols(path, users, graph["tensor_values"], shapes)
    table = {
        name: _json_tensor(name, meta, sizes, name in constant)
        for name, meta in graph["tensor_values"].items()
    }
    calls = [_json_call(node, table, sizes) for node in graph["nodes"]]
    nodes = subnormal.marked(((call, _nodes(call, path)) for call in calls), {})
    named = {each["parameter"]["arg"]["name"] for each in signature["input_specs"] if "parameter" in each}
    parameters = float(sum(math.prod(table[name].shape) for name in named if name in table))
    inputs = {name: table[name].shape for name in users}
    return Network(path, "torch.export", tuple(nodes), inputs, parameters)


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
    results = [x for each in node["outputs"] for x in _tensors([value(each)])]
    parts = str(node["target"]).split(".")
    namespace, bare = (
        (parts[2], parts[3]) if parts[:2] == ["torch", "ops"] and len(parts) > 3 else ("torch", parts[-1])
    )
    stack = str(node["metadata"].get("nn_module_stack", "")).split(";")[-1].split(",")
    module = stack[1] if len(stack) > 2 else ""
    name = str(node.get("name") or (results[0].name if results else bare))
    call = Call(bare, name, arguments, tuple(results), module, namespace)
    return replace(call, tensors=tuple(_tensors(arguments)))
