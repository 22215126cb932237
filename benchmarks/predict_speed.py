"""How long pricing takes: ResNet-50 as ONNX, and variants of a search space of cells, each a file of its own.

    python benchmarks/predict_speed.py --predictor my-machine.joules [--variants 1000] [--rounds 5]

Times reading the graph and pricing it, libraries loaded and the predictor in memory (a first call stands
before), in wall time and in processor time, which a busy machine hardly inflates. The variants are drawn as in NAS-Bench-201 (Dong and Yang, 2020): 15 cells of 4 nodes whose 6 edges
are nothing, an identity, a 1 × 1 or 3 × 3 convolution or a 3 × 3 average pooling, on 32 × 32 images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from joulemeter import graphs, predict, pricing

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool3")
CELLS, WIDTH = 5, 16


class Writer:
    """An ONNX graph in the making; weights are zeros, which nobody reads."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """One node; the name of its result."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def conv(self, x: str, c_in: int, c_out: int, k: int, stride: int = 1) -> str:
        """relu, then a convolution with its bias."""
        shapes = ((c_out, c_in, k, k), (c_out,))
        names = [f"w{len(self.weights) + i}" for i in range(2)]
        for name, shape in zip(names, shapes, strict=True):
            raw = np.zeros(shape, np.float32).tobytes()
            self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, raw, raw=True))
        return self.add(
            "Conv",
            [self.add("Relu", [x]), *names],
            pads=[k // 2] * 4,
            strides=[stride] * 2,
            kernel_shape=[k, k],
        )

    def edge(self, operation: str, x: str, channels: int) -> str | None:
        """What an edge makes of ``x``; None where it is cut."""
        if operation == "none":
            return None
        if operation == "pool3":
            return self.add("AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4)
        return x if operation == "skip" else self.conv(x, channels, channels, int(operation[-1]))

    def cell(self, x: str, operations: list[str], channels: int) -> str:
        """Four nodes, each the sum of its edges; a node without one repeats the cell's input."""
        made = [x]
        for node in range(1, 4):
            parts = [self.edge(operations[i], made[source], channels)
                     for i, (target, source) in enumerate(EDGES) if target == node]  # fmt: skip
            kept = [each for each in parts if each is not None]
            total = kept[0] if kept else x
            for each in kept[1:]:
                total = self.add("Add", [total, each])
            made.append(total)
        return made[-1]


def variant(rng: np.random.Generator) -> Any:
    """One network of the space: three stages of cells, halved and doubled between."""
    operations = [str(each) for each in rng.choice(OPERATIONS, len(EDGES))]
    writer, channels = Writer(), WIDTH
    x = writer.conv("x", 3, channels, 3)
    for stage in range(3):
        if stage:
            x, channels = writer.conv(x, channels, 2 * channels, 3, 2), 2 * channels
        for _ in range(CELLS):
            x = writer.cell(x, operations, channels)
    writer.add("GlobalAveragePool", [x])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))
    result = helper.make_tensor_value_info(writer.nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(writer.nodes, "cell", [image], [result], writer.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def resnet50(path: Path) -> None:
    """torchvision's network as PyTorch exports it to ONNX, weights inside."""
    import torch

    from joulemeter.networks.vision import stock

    module, arguments = stock("resnet50")()
    torch.onnx.export(module, arguments, str(path), dynamo=True, external_data=False, verbose=False)


def clocks() -> np.ndarray[Any, Any]:
    """Wall and processor seconds (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def priced(path: str, found: pricing.Pricing) -> np.ndarray[Any, Any]:
    """Seconds (wall, processor) to read one file and to price it."""
    start = clocks()
    predict.price(graphs.read(path), found)
    return clocks() - start


def main() -> None:
    """Prints both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictor", type=Path, required=True)
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = pricing.opened(options.predictor)
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "resnet50.onnx"
        resnet50(one)
        priced(str(one), found)
        wall, own = np.median([priced(str(one), found) for _ in range(options.rounds)], axis=0)
        print(f"ResNet-50 as ONNX, read and priced: {wall:.2f} s, {own:.2f} s of processor (medians)")
        rng = np.random.default_rng(0)
        paths = [Path(folder) / f"{i}.onnx" for i in range(options.variants)]
        for path in paths:
            onnx.save(variant(rng), path)
        start = clocks()
        networks = [graphs.read(str(path)) for path in paths]
        predict.price_all(networks, found)
        wall, own = clocks() - start
        nodes = sum(len(each.nodes) for each in networks) / len(networks)
        print(f"{len(paths)} variants of {nodes:.0f} nodes: {wall:.1f} s, {own:.1f} s of processor")


if __name__ == "__main__":
    main()
