"""One network by three formats: what a `.pt2`, an `.onnx` and a `.tflite` file of it are priced at.

    python benchmarks/formats.py --export DIR                   # writes the files
    python benchmarks/formats.py --price DIR --predictor P      # prints the table

Networks are built from their definitions with random weights, exported by PyTorch (`.pt2`, `.onnx` by dynamo) and
by litert-torch (`.tflite`), which may live in an environment of its own: files that are there are not written anew, and
formats whose exporter is not installed are left out, with a line saying so. Prices are those of `joulemeter predict`;
the ratios are over the `.pt2` file. Asked: within 3 %.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joulemeter import graphs, kernels, predict, pricing

NETWORKS = {
    "resnet50": "stock",
    "mobilenet_v2": "stock",
    "efficientnet_b0": "stock",
    "convnext_tiny": "stock",
    "vit_b_16": "stock",
    "swin_t": "stock",
    "bert": "text",
    "gpt2": "text",
}
SUFFIXES = (".pt2", ".onnx", ".tflite")


def build(name: str) -> tuple[Any, tuple[Any, ...]]:
    """The module and its arguments; the two texts are of four blocks of BERT-base's and GPT-2's width."""
    import torch

    from joulemeter.networks import language, vision

    torch.manual_seed(0)
    if NETWORKS[name] == "stock":
        return vision.stock(name)()
    return language.text(name, 30_000, 128, 768, 12, 3072, 4), (torch.randint(30_000, (1, 128)),)


def export(folder: Path) -> None:
    """Writes each network in each format that can be written here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        wanted = [suffix for suffix in SUFFIXES if not (folder / f"{name}{suffix}").exists()]
        if wanted:
            module, arguments = build(name)
            for suffix in wanted:
                said = write(suffix, module, arguments, folder / f"{name}{suffix}")
                print(f"{name}{suffix}: {said}", flush=True)


def write(suffix: str, module: Any, arguments: tuple[Any, ...], file: Path) -> str:
    """Writes one file; what to say of it."""
    try:
        WRITERS[suffix](module, arguments, file)
    except ImportError as error:
        return f"left out, {error}"
    return f"{file.stat().st_size >> 20} MiB"


def _pt2(module: Any, arguments: tuple[Any, ...], file: Path) -> None:
    import torch

    torch.export.save(torch.export.export(module, arguments), file)


def _onnx(module: Any, arguments: tuple[Any, ...], file: Path) -> None:
    import onnxscript  # noqa: F401  what PyTorch's exporter asks for, said before it starts
    import torch

    torch.onnx.export(module, arguments, file, dynamo=True, verbose=False)


def _tflite(module: Any, arguments: tuple[Any, ...], file: Path) -> None:
    import litert_torch

    litert_torch.convert(module, arguments).export(str(file))


WRITERS: dict[str, Callable[[Any, tuple[Any, ...], Path], None]] = {
    ".pt2": _pt2,
    ".onnx": _onnx,
    ".tflite": _tflite,
}


def price(folder: Path, predictor: str) -> None:
    """Prints the table, and of each format the families that its files have more or less of."""
    price_of = pricing.opened(predictor)
    print("| network | `.pt2` | `.onnx` | `.tflite` | FLOPs covered |\n|---|---:|---:|---:|---:|")
    differences = []
    for name in NETWORKS:
        networks = {
            suffix: graphs.read(str(file))
            for suffix in SUFFIXES
            if (file := folder / f"{name}{suffix}").exists()
        }
        priced = {suffix: predict.price(network, price_of) for suffix, network in networks.items()}
        first = priced[".pt2"].energy.value
        ratios = [f"{priced[s].energy.value / first - 1:+.1%}" if s in priced else "" for s in SUFFIXES[1:]]
        covered = min(each.flops_covered for each in priced.values())
        print(f"| {name} | {first:.4g} J | {ratios[0]} | {ratios[1]} | {covered:.1%} |")
        counts = {s: families(network) for s, network in networks.items()}
        for suffix, count in counts.items():
            for family in sorted(set(count) | set(counts[".pt2"])):
                mine, theirs = (each.get(family, (0, 0.0, 0.0)) for each in (count, counts[".pt2"]))
                if mine != theirs:
                    differences.append(f"{name}{suffix} {family}: {mine} where the .pt2 has {theirs}")
    print("\nlaunches, GFLOP and MB that differ:", *differences, sep="\n  ")


def families(network: graphs.Network) -> dict[str, tuple[int, float, float]]:
    """Launches, GFLOP and MB of each family of a network as it is deployed."""
    launches: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for node in predict.as_run(network).nodes:
        family = node.kernel.family if node.kernel else f"({node.operator})"
        launches[family] += 1
        if node.kernel:
            work = kernels.work(node.kernel)
            flops[family] += work.flops / 1e9
            moved[family] += work.bytes / 1e6
    return {each: (n, round(flops[each], 4), round(moved[each], 2)) for each, n in launches.items()}


def main() -> None:
    """Writes or prices."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--price", type=Path)
    parser.add_argument("--predictor")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.export:
        export(given.export)
    if given.price:
        price(given.price, given.predictor)


if __name__ == "__main__":
    main()
