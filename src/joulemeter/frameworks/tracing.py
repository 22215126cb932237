"""What traces or compiles the user's functions instead of calling them.

TensorFlow's AutoGraph reads sources, and finds the author's own. JAX calls the function once with
tracers. Numba, and Keras where it saves a Lambda, read bytecode: they are given the author's code.
TorchDynamo reads the bytecode of everything it reaches: it is told that a gate hands back its argument.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

READERS = frozenset({"numba", "cloudpickle", "dill"})
"""Packages whose functions read the bytecode of functions they are given."""
READER_CLASSES = frozenset(
    {"keras.src.layers.core.lambda_layer.Lambda", "tf_keras.src.layers.core.lambda_layer.Lambda"}
)
TRACERS = {
    "tensorflow.python.eager.polymorphic_function.polymorphic_function.Function": "tensorflow.function",
    "torch._dynamo.eval_frame.OptimizedModule": "torch.compile",
    "jaxlib._jax.PjitFunction": "jax.jit",
    "jaxlib.xla_extension.PjitFunction": "jax.jit",
    "jaxlib._jax.PmapFunction": "jax.pmap",
    "numba.core.registry.CPUDispatcher": "numba.jit",
    "numba.cuda.dispatcher.CUDADispatcher": "numba.cuda.jit",
}
"""Classes of callables that run what they traced, by the name of what makes them."""


INNER = ("__wrapped__", "python_function", "py_func", "_orig_mod")
"""Where such a callable keeps what it traced."""


def full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def is_reader_class(kind: type) -> bool:
    """Whether making an instance of ``kind`` hands it a function whose bytecode it will read."""
    return full_name(kind) in READER_CLASSES


def traces(kind: type) -> bool:
    """Whether instances of ``kind`` run what they traced of another function."""
    return any(full_name(base) in TRACERS for base in kind.__mro__)


def traced_name(callee: Any) -> str | None:
    """``jax.jit(step)`` for a callable that runs what was traced of ``step``; None for any other."""
    if isinstance(callee, types.FunctionType):
        inner = callee.__dict__.get("_torchdynamo_orig_callable")
        left_alone = inner is None or callee.__dict__.get("_torchdynamo_disable")
        return None if left_alone else f"torch.compile({own_name(inner)})"
    maker = next((TRACERS[name] for name in map(full_name, type(callee).__mro__) if name in TRACERS), None)
    if maker is None:
        return None
    inner = next((getattr(callee, name) for name in INNER if getattr(callee, name, None) is not None), None)
    home = getattr(inner, "__module__", "") or ""
    if home.partition(".")[0] == maker.partition(".")[0]:
        return f"{getattr(callee, '__module__', home)}.{own_name(inner)}"  # the library's own: jax.numpy.dot
    return f"{maker}({own_name(inner)})"


def own_name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__)).rpartition("<locals>.")[2]


sources: dict[str, tuple[bytes | str, int]] = {}
"""What was rewritten: file name to its source and compiler flags."""


def restore(function: types.FunctionType) -> None:
    """Gives a rewritten function the code that its author wrote, compiled from the same source.

    A function that was not rewritten, or whose source cannot be told apart, is left as it is.
    """
    code = function.__code__
    if code.co_filename not in sources or not gated(code):
        return
    source, flags = sources[code.co_filename]
    whole = compile(source, code.co_filename, "exec", flags, dont_inherit=True)
    same = [each for each in nested(whole) if extent(each) == extent(code)]
    if len(same) == 1 and same[0].co_freevars == code.co_freevars:
        function.__code__ = same[0]


def gated(code: types.CodeType) -> bool:
    """Whether ``code``, or code inside it, holds a gate."""
    return any(
        is_gate(constant) or (isinstance(constant, types.CodeType) and gated(constant))
        for constant in code.co_consts
    )


def is_gate(value: Any) -> bool:
    """Whether a constant of some code is a gate, of either engine."""
    return type(value).__name__ == "Gate" and type(value).__module__.startswith("joulemeter.")


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """``code`` and all code inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def extent(code: types.CodeType) -> tuple[Any, ...]:
    """What tells two pieces of code of one file apart: names, and where they begin and end."""
    spots = [spot for spot in code.co_positions() if None not in spot]
    first = min(((line, column) for line, _, column, _ in spots), default=None)
    last = max(((line, column) for _, line, _, column in spots), default=None)
    return code.co_qualname, code.co_firstlineno, first, last


def prepare_dynamo() -> None:
    """Tells TorchDynamo, once it is loaded, what a gate is."""
    symbolic = sys.modules.get("torch._dynamo.symbolic_convert")
    translator: Any = getattr(symbolic, "InstructionTranslatorBase", None)
    load = getattr(translator, "_load_const", None)
    if load is None or getattr(load, "_knows_gates", False):
        return
    builder = sys.modules["torch._dynamo.variables.builder"].SourcelessBuilder

    def load_const(self: Any, instruction: Any) -> Any:
        """A gate among the constants is its stand-in to the compiler."""
        value = instruction.argval
        return builder.create(self, STAND_INS[value.kind]) if is_gate(value) else load(self, instruction)

    load_const._knows_gates = True  # type: ignore[attr-defined]
    translator._load_const = load_const


def _itself(value: Any) -> Any:
    return value


def _multiply(a: Any, b: Any) -> Any:
    return a @ b


def _multiply_in_place(a: Any, b: Any) -> Any:
    a @= b
    return a


STAND_INS = (*[_itself] * 8, _multiply, _multiply_in_place)
"""What each kind of gate does to a value, in plain Python."""
