"""Recurrent layers: LSTM, GRU and the plain one over a whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("lstm", "gru", "rnn")

# (steps, in_features, hidden) of language, speech and time-series models.
_LAYERS = ((35, 200, 200), (35, 650, 650), (100, 80, 256), (50, 128, 128), (20, 512, 512), (96, 7, 64))
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def form(kernel: Kernel) -> Form:
    """Each step: gates × hidden × (in_features + hidden) products, then the gates element by element."""
    steps, c_in, hidden = (int(kernel.dimension(n)) for n in ("steps", "in_features", "hidden"))
    gates = _GATES[kernel.family]
    x = Operand((steps, kernel.batch, c_in), kernel.dtype)
    y = Operand((steps, kernel.batch, hidden), kernel.dtype)
    # MACs = T · N · g · H · (C + H)
    macs = steps * kernel.batch * gates * hidden * (c_in + hidden)
    # Each gate: two biases, a sigmoid or tanh (6); LSTM's cell c' = f c + i g, h = o tanh(c'): 8; GRU's
    # mix: 4.
    extra = y.elements * (8 * gates + {"lstm": 8, "gru": 4, "rnn": 0}[kernel.family])
    shapes = (gates * hidden, c_in), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)
    return Form((x,), tuple(Operand(s, kernel.dtype) for s in shapes), (y,), float(2 * macs + extra), macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered."""
    names = ("steps", "in_features", "hidden")
    shape = dict(zip(names, (around(rng, n, 0.7) for n in pick(rng, _LAYERS)), strict=True))
    return Kernel(name, shape, batch=int(rng.choice([1, 1, 4, 8])))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.lstm``, ``torch.gru`` or ``torch.rnn_tanh``, one layer, from a state of zeros."""
    import torch

    hidden = int(kernel.dimension("hidden"))
    state = torch.zeros(1, kernel.batch, hidden)

    def call(x: Any, *weights: Any) -> Any:
        """One layer over all steps, from a state of zeros."""
        flags = (True, 1, 0.0, False, False, False)
        if kernel.family == "lstm":
            return torch.lstm(x, (state, state), weights, *flags)[0]
        plain = torch.gru if kernel.family == "gru" else torch.rnn_tanh
        return plain(x, state, weights, *flags)[0]

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """LSTM, GRU or RNN; their weights need a leading direction, which Unsqueeze adds."""
    one = {"c0": [0]}
    return (
        OnnxNode("Unsqueeze", ("w0", "c0"), ("u0",), {}, one),
        OnnxNode("Unsqueeze", ("w1", "c0"), ("u1",)),
        OnnxNode(
            kernel.family.upper(),
            ("x0", "u0", "u1"),
            ("y0",),
            {"hidden_size": int(kernel.dimension("hidden"))},
        ),
    )
