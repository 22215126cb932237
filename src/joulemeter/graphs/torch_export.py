"""PyTorch: modules exported by ``torch.export`` and read from there. (Files of such are ``pt2``'s.)"""

from __future__ import annotations

import importlib
import io
import logging
import math
import operator
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from joulemeter import aten, subnormal
from joulemeter.errors import GraphError, UsageError, nearest
from joulemeter.graphs import Shapes
from joulemeter.network import Network
from joulemeter.traced import WRAPS, Call, Tensor, tensors_in

SUFFIXES = (":",)

_WHOLE = "whole_module"

# Files that are not the user's own: installed packages, Python's, and this one.
_OTHERS = re.compile(r"site-packages|dist-packages|[\\/]lib[\\/]python3|^<|torch_export\.py$")


def read(target: str, shapes: Shapes) -> Network:
    """The network of the module that ``module:function`` returns."""
    module, arguments, keywords = load(target, shapes)
    return from_module(module.eval(), arguments, keywords, name=target)


def read_training(target: str, shapes: Shapes) -> Network:
    """As ``read``, of the module as it is trained: with dropout, and norms by the batch's own statistics."""
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
            program = _program(module, arguments, keywords or {})
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


def _program(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The exported program; of a module that returns what PyTorch knows no way to take apart (a cache of keys
    and values), one that returns the tensors in it."""
    import torch

    try:
        return torch.export.export(module, arguments, keywords)
    except RuntimeError as error:
        if "not a known type" not in str(error):
            raise
    return torch.export.export(_bare(module), arguments, keywords)


def _bare(module: Any) -> Any:
    """A module that calls ``module`` and returns the tensors in what that returns."""
    import torch

    class Bare(torch.nn.Module):
        """``module`` under the name of its own kind."""

        def __init__(self) -> None:
            super().__init__()
            self.add_module(_WHOLE, module)

        def forward(self, *arguments: Any, **keywords: Any) -> list[Any]:
            """The tensors of what ``module`` returns."""
            return list(_within(module(*arguments, **keywords)))

    return Bare()


def _within(value: Any, depth: int = 6) -> Iterator[Any]:
    """The tensors in a value, through lists, mappings and the attributes of objects."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif depth:
        held = value if isinstance(value, list | tuple) else getattr(value, "__dict__", {})
        held = value if isinstance(value, Mapping) else held
        for each in held.values() if isinstance(held, Mapping) else held:
            yield from _within(each, depth - 1)


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
    graph = _flat(program.graph_module)
    calls = [
        _fx_call(node, constant)
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    ]
    lifted = {
        each: program.constants[place] for each, place in signature.inputs_to_lifted_tensor_constants.items()
    }
    nodes = subnormal.marked(
        ((call, aten.nodes(call, name)) for call in calls), subnormal.shares(graph, lifted)
    )
    inputs = {
        node.name: tuple(int(n) for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder"
        and node.name in signature.user_inputs
        and hasattr(node.meta.get("val"), "shape")
    }
    parameters = float(sum(math.prod(each.shape) for _, each in program.named_parameters()))
    return Network(name, "torch.export", tuple(nodes), inputs, parameters)


def _flat(module: Any) -> Any:
    """The fx graph of ``module``, with the graphs that it wraps in place of their calls: a block under
    ``torch.autocast`` is one."""
    if not any(_wraps(node) for node in module.graph.nodes):
        return module.graph
    from torch.fx import Graph

    flat = Graph()
    _copied(module, flat, [flat.node_copy(node) for node in module.graph.nodes if node.op == "placeholder"])
    return flat


def _wraps(node: Any) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") in WRAPS


def _copied(module: Any, into: Any, operands: Sequence[Any]) -> Any:
    """What a module's graph returns for ``operands``, its nodes copied ``into`` another graph."""
    from torch.fx.node import map_arg

    given, found = iter(operands), dict[Any, Any]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            found[node] = next(given, None)
        elif node.op == "output":
            return map_arg(node.args[0], lambda each: found[each])
        elif node.op == "get_attr":
            held = getattr(module, node.target, None)
            found[node] = held if hasattr(held, "graph") else into.node_copy(node)
        elif _wraps(node):
            at, inner = next((i, found[x]) for i, x in enumerate(node.args) if hasattr(found.get(x), "graph"))
            rest = [each for each in node.args[at + 1 :] if not isinstance(each, str)]
            found[node] = _copied(inner, into, [map_arg(each, lambda n: found[n]) for each in rest])
        elif node.target is operator.getitem and isinstance(found.get(node.args[0]), list | tuple):
            found[node] = found[node.args[0]][node.args[1]]
        else:
            found[node] = into.node_copy(node, lambda each: found[each])
    return ()


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
    module = str(stack[-1][0] if stack else "").removeprefix(_WHOLE).removeprefix(".")
    bare = operator_name.partition(".")[0]
    return Call(
        bare, node.name, arguments, results, module, namespace or "torch", tuple(tensors_in(arguments))
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
