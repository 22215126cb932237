"""One use of a Keras 3 layer: its settings, the shapes it reads, and how Keras writes numbers and names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulemeter import layers
from joulemeter.kernel import Kernel

Shape = tuple[int, ...]

# Activations by Keras's names; "linear" is none.
_ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "sigmoid": "sigmoid", "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hswish", "hard_swish": "hswish", "silu": "silu", "swish": "silu", "gelu": "gelu",
    "tanh": "tanh", "elu": "elu", "leaky_relu": "leaky-relu",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One use of a layer: its class, its settings and the shapes it reads, images as the file has them."""

    kind: str
    config: Mapping[str, Any]
    inputs: tuple[Shape, ...]
    dtype: str = "float32"

    @property
    def x(self) -> Shape:
        """The first operand in the order batch × channels × space; signals (batch × steps × channels) too."""
        return self.channels_first(self.inputs[0])

    def channels_first(self, shape: Shape) -> Shape:
        """A shape in the order batch × channels × space."""
        if self.config.get("data_format") == "channels_first" or len(shape) < 3:
            return shape
        return (shape[0], shape[-1], *shape[1:-1])

    def as_stored(self, shape: Shape) -> Shape:
        """The other way round: batch × channels × space in the order that the file has."""
        if self.config.get("data_format") == "channels_first" or len(shape) < 3:
            return shape
        return (shape[0], *shape[2:], shape[1])

    def image(self, shape: Shape) -> Shape:
        """Images in the order batch × channels × space; anything else, such as rows of tokens, as it is."""
        return self.channels_first(shape) if len(shape) in (4, 5) else shape

    def pair(self, name: str, otherwise: int = 1) -> list[int]:
        """A setting with a number for each space dimension."""
        value = self.config.get(name)
        dims = len(self.inputs[0]) - 2
        if value is None:
            return [otherwise] * dims
        return [value] * dims if isinstance(value, int) else ints(value)

    @property
    def bias(self) -> bool:
        """Whether it adds a bias; Keras's layers do unless told not to."""
        return bool(self.config.get("use_bias", True))

    def activated(self, out: Shape) -> list[Kernel]:
        """The layer's own activation of its result."""
        return activate(named(self.config.get("activation")), out, self.dtype)


@dataclass(frozen=True, slots=True)
class Made:
    """The kernels of a layer (None: no formula for it) and the shape of its result (None: not known)."""

    kernels: Sequence[Kernel] | None
    out: Shape | None


Handler = Callable[[Layer], Made]


def dtype_of(config: Mapping[str, Any], otherwise: str = "float32") -> str:
    """The dtype in which a layer of ``config`` computes: its policy's, or what that computes in."""
    policy = config.get("dtype")
    name = policy["config"]["name"] if isinstance(policy, Mapping) else policy
    return {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}.get(str(name), str(name or otherwise))


def unwrapped(value: Any) -> list[Any]:
    """The items of a list, or of a tuple as Keras writes one."""
    if isinstance(value, Mapping):
        value = value["config"]["items"] if isinstance(value["config"], Mapping) else value["config"]
    return list(value)


def ints(value: Any) -> list[int]:
    """Whole numbers out of a list, or out of a tuple as Keras writes one."""
    return [int(each) for each in unwrapped(value)]


def named(activation: Any) -> str:
    """The name of an activation, also of one that was written as an object."""
    if isinstance(activation, Mapping):
        held = activation.get("config")
        activation = held if isinstance(held, str) else activation.get("class_name")
    return str(activation or "linear")


def activate(name: str, out: Shape, dtype: str) -> list[Kernel]:
    """The kernel of an activation, by Keras's name of it, on a result of shape ``out``; none of "linear"."""
    if name == "linear":
        return []
    if name in ("softmax", "log_softmax"):
        return [layers.softmax(out, -1, dtype)]
    family = _ACTIVATIONS.get(name)
    if family:
        return [layers.activation(family, out, False, dtype)]
    return [layers.elementwise(out, 1, name, dtype)]
