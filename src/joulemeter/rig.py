"""Rig: a kernel set up to be called again and again with the caches as a network leaves them.

Two states matter. A kernel's inputs were written a moment ago by the kernel before it: they are warm. Its
weights were last used one whole inference ago: they are cold unless all weights of the network fit into the
last cache. A loop over one set of operands has warm weights, which makes a fully connected layer of VGG
several times too fast. ``rig`` serves loops: the weights rotate through copies that together exceed the last
cache, the inputs stay, and results live on for a few calls, so that they do not always land on the same warm
memory. ``stage`` serves rounds of many kernels (timing.in_turn), where the others' operands push the weights
out, and the inputs are written anew before each call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from joulemeter import kernels
from joulemeter.errors import UsageError
from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand
from joulemeter.kernels import backward as gradients
from joulemeter.timing import Call, Staged

COLD_BYTES = 64 << 20
"""Weights rotate through at least so much: twice the last cache of most CPUs' core complexes."""
_MOST_COPIES = 256
_ALIVE_BYTES = 8 << 20
_SEED = 12345


def backends() -> tuple[str, ...]:
    """What kernels can be launched with here."""
    from importlib.util import find_spec

    found = ("torch", "torch-compile") if find_spec("torch") else ()
    return (*found, "onnxruntime") if find_spec("onnxruntime") else found


def rig(
    kernel: Kernel, backend: str = "torch", device: str = "cpu", cold_bytes: int = COLD_BYTES
) -> Call | None:
    """A function that launches ``kernel`` once; None where the backend has no such kernel.

    Raises UsageError for an unknown backend.
    """
    made = _staged(kernel, backend, device, cold_bytes)
    return None if made is None else made.call


def stage(kernel: Kernel, backend: str = "torch", device: str = "cpu") -> Staged | None:
    """A launch of ``kernel`` with one set of weights, and a way to write its inputs anew; None where the
    backend has no such kernel. Raises UsageError for an unknown backend."""
    return _staged(kernel, backend, device, 0)


def held_bytes(kernel: Kernel) -> float:
    """The memory that ``stage`` takes for ``kernel``, in bytes."""
    form = kernels.form(gradients.forward(kernel) if kernel.direction == "backward" else kernel)
    return math.fsum(
        each.bytes / max(each.read, 1e-9) for each in (*form.inputs, *form.weights, *form.results)
    )


def _staged(kernel: Kernel, backend: str, device: str, cold_bytes: int) -> Staged | None:
    if backend == "onnxruntime":
        return None if kernel.direction == "backward" else _onnx_call(kernel, cold_bytes)
    if backend not in ("torch", "torch-compile"):
        raise UsageError(f"there is no backend '{backend}'", f"one of {', '.join(backends())}")
    return _torch_call(kernel, backend == "torch-compile", device, cold_bytes)


def _copies(form: Form, cold_bytes: int) -> int:
    weights = sum(each.bytes / max(each.read, 1e-9) for each in form.weights)
    return 1 if weights == 0 or not cold_bytes else min(_MOST_COPIES, max(2, math.ceil(cold_bytes / weights)))


# ── PyTorch ──────────────────────────────────────────────────────────────────────────────────────────


def _torch_call(kernel: Kernel, compiled: bool, device: str, cold_bytes: int) -> Staged:
    import torch

    backward = kernel.direction == "backward"
    form = kernels.form(gradients.forward(kernel) if backward else kernel)
    function = kernels.family(kernel.family).torch(kernel)
    if compiled:
        function = _compiled(function)
    generator = torch.Generator().manual_seed(_SEED)
    inputs = [_tensor(each, generator, device) for each in form.inputs]
    # In place, a factor of one keeps the numbers from dying away into denormals, which are slow.
    if kernel.dimension("in_place", 0) and kernel.family == "mul":
        inputs[1:] = [torch.ones_like(each) for each in inputs[1:]]
    sets = [
        [_tensor(each, generator, device) for each in form.weights] for _ in range(_copies(form, cold_bytes))
    ]
    produce = _written_anew(inputs)
    if backward:
        return Staged(_backward(function, inputs, sets), produce)
    turn = _around(sets)
    alive: deque[Any] = deque(maxlen=_alive(form))

    def call() -> None:
        """The kernel on the next set of inputs; its result stays alive for a while."""
        with torch.inference_mode():
            alive.append(function(*inputs, *next(turn)))

    return Staged(_without_grad(call, function, inputs, turn, alive), produce)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled for its own shapes, or RuntimeError at its first launch where that cannot be.

    PyTorch keeps what it compiled with the code object: the second set of shapes of one is compiled for any
    size, and the ninth runs uncompiled. So each kernel has a code object of its own.
    """
    import torch

    def launch(*operands: Any) -> Any:
        """The kernel itself."""
        return function(*operands)

    alone = FunctionType(launch.__code__.replace(), globals(), closure=launch.__closure__)
    return torch.compile(alone, fullgraph=True, dynamic=False)


def _written_anew(inputs: list[Any]) -> Call:
    """Writes each number of the inputs where it lies, so that they are as warm as a result just made."""
    numbers = [each for each in inputs if each.is_floating_point()]

    def produce() -> None:
        """Touches every number once."""
        for each in numbers:
            each.mul_(1.0)

    return produce


def _without_grad(
    call: Call, function: Any, inputs: list[Any], turn: Iterator[Any], alive: deque[Any]
) -> Call:
    """``call`` without its context manager, for callers that have switched gradients off already."""
    import torch

    def bare() -> None:
        """The kernel alone, where gradients are off already."""
        if torch.is_inference_mode_enabled():
            alive.append(function(*inputs, *next(turn)))
        else:
            call()

    return bare


def _around(sets: list[list[Any]]) -> Iterator[list[Any]]:
    while True:
        yield from sets


def _alive(form: Form) -> int:
    size = sum(each.bytes for each in form.results)
    return max(1, min(4, int(_ALIVE_BYTES // max(size, 1))))


def _tensor(operand: Operand, generator: Any, device: str) -> Any:
    import torch

    dtype = getattr(torch, operand.dtype)
    if not dtype.is_floating_point:
        return torch.randint(0, max(operand.below, 1), operand.shape, generator=generator, dtype=dtype).to(
            device
        )
    # Around a half and never negative, so that means, variances and roots are all defined.
    made = torch.rand(operand.shape, generator=generator).add_(0.05).to(dtype)
    share, value = operand.rare
    if share:
        made[torch.rand(operand.shape, generator=generator) < share] = value
    if operand.layout == "channels-last" and len(operand.shape) == 4:
        made = made.contiguous(memory_format=torch.channels_last)
    elif operand.layout == "channels-last" and len(operand.shape) == 3:
        made = made.transpose(1, 2).contiguous().transpose(1, 2)
    return made.to(device)


def _backward(function: Callable[..., Any], inputs: list[Any], sets: list[list[Any]]) -> Call:
    """The gradients of inputs and weights of a forward pass that was kept; the weights take turns."""
    import torch

    prepared = []
    for weights in sets[:8]:
        tensors = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in (*inputs, *weights)]
        result = function(*tensors)
        results = [y for y in (result if isinstance(result, list | tuple) else [result]) if y.requires_grad]
        leaves = [x for x in tensors if x.requires_grad]
        prepared.append((results, leaves, [torch.ones_like(y) for y in results]))
    turn = _around([list(each) for each in prepared])

    def call() -> None:
        """The next graph's gradients alone."""
        results, leaves, grads = next(turn)
        torch.autograd.grad(results, leaves, grads, retain_graph=True, allow_unused=True)

    return call


# ── ONNX Runtime ─────────────────────────────────────────────────────────────────────────────────────


def _onnx_call(kernel: Kernel, cold_bytes: int) -> Staged | None:
    """One session for each copy of the weights, as many as make them cold, at most sixteen."""
    import numpy as np
    import onnxruntime

    nodes = kernels.family(kernel.family).onnx(kernel)
    if not nodes:
        return None
    form = kernels.form(kernel)
    rng = np.random.default_rng(_SEED)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(
            onnx_model(form, nodes, rng), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(min(16, _copies(form, cold_bytes)))
    ]
    feeds = {f"x{i}": _array(each, rng) for i, each in enumerate(form.inputs)}
    turn = _around([[each] for each in sessions])
    numbers = [each for each in feeds.values() if each.dtype.kind == "f"]

    def produce() -> None:
        """Touches every number once."""
        for each in numbers:
            np.multiply(each, 1.0, out=each)

    return Staged(lambda: next(turn)[0].run(None, feeds), produce)


def _threads() -> int:
    import sys

    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch is not None else 0


def _array(operand: Operand, rng: Any) -> Any:
    if operand.dtype.startswith(("int", "uint")):
        return rng.integers(0, max(operand.below, 1), operand.shape).astype(operand.dtype)
    return (rng.random(operand.shape) + 0.05).astype(operand.dtype)


def onnx_model(form: Form, nodes: tuple[OnnxNode, ...], rng: Any) -> bytes:
    """An ONNX model of ``nodes`` alone, its weights random constants."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    def value(name: str, operand: Operand, shape: tuple[int, ...] | None) -> Any:
        """The declaration of one input or output."""
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype)), shape
        )

    weights = [numpy_helper.from_array(_array(each, rng), f"w{i}") for i, each in enumerate(form.weights)]
    made = []
    for node in nodes:
        made.append(helper.make_node(node.operator, node.inputs, node.outputs, **node.attributes))
        for name, numbers in node.constants.items():
            whole = all(isinstance(each, int) for each in numbers)
            array = np.array(numbers, np.int64 if whole else np.float32)
            weights.append(numpy_helper.from_array(array if whole else array.reshape(-1)[0], name))
    inputs = [value(f"x{i}", each, each.shape) for i, each in enumerate(form.inputs)]
    outputs = [value(f"y{i}", each, None) for i, each in enumerate(form.results)]
    graph = helper.make_graph(made, "kernel", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content if onnx else b""
