"""Prices networks that were never benched, on this machine, and compares with their real times.

    python benchmarks/networks.py --budget 30m

Builds this device's data set (or takes the one given by --data) and times, between its parts, about thirty networks of
torchvision and transformers as users run them: a machine whose speed wanders is the same to both. Then learns from the
data set alone and prints how far the predictions lie. Wants a quiet machine; ``--threads 1 --cpu-time`` serves on a busy one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from joulemeter import bench, networks, predict, pricing, timing, units
from joulemeter.graphs import torch_export
from joulemeter.isolate import machine
from joulemeter.networks import language, vision

STOCK = (
    "alexnet", "vgg11", "vgg13_bn", "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2",
    "densenet121", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "mnasnet1_0", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_v2_s", "regnet_y_400mf", "regnet_x_800mf", "convnext_tiny", "vit_b_16", "vit_b_32", "swin_t", "swin_v2_t",
)  # fmt: skip
Built = tuple[Any, tuple[Any, ...]]


def unseen() -> Iterator[tuple[str, Callable[[], Built]]]:
    """Networks that no data set of ``joulemeter bench`` holds: stock ones, and transformers' own."""
    for name in STOCK:
        yield name, vision.stock(name, 299 if name == "inception_v3" else 224)
    yield "bert-base (128 tokens)", lambda: _transformer("bert", 128)
    yield "gpt2 (64 tokens)", lambda: _transformer("gpt2", 64)
    yield "llama-style (96 tokens)", lambda: _llama(96)


def _transformer(kind: str, tokens: int) -> Built:
    import torch
    import transformers

    ids = torch.randint(30000, (1, tokens))
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig()).eval(), (ids,)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)).eval(), (ids,)


def _llama(tokens: int) -> Built:
    import torch

    return language.text("llama", 32000, tokens, 1024, 16, 2816, 6, 4), (torch.randint(32000, (1, tokens)),)


def main() -> None:
    """Runs the check and prints its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--data", type=Path, help="an existing data set, or where to build one")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds in place of seconds: busy machines"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the data set first")
    parser.add_argument("--build-only", action="store_true", help="measure, and compare another time")
    parser.add_argument("--real", type=Path, help="where measured times are kept from one run to the next")
    parser.add_argument(
        "--visits",
        type=int,
        default=3,
        help="how often each network is timed: after as many parts of the budget",
    )
    parser.add_argument("--json", type=Path, help="also write the table as JSON")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    folder = options.data or Path(tempfile.mkdtemp(prefix="joulemeter-networks-")) / "data"
    visits = json.loads(options.real.read_text()) if options.real and options.real.exists() else {}
    builds = not folder.exists() or options.resume
    plan = bench.Plan(units.parse_seconds(options.budget) / options.visits, clock=clock, backward=0.0)
    for _ in range(options.visits):
        if builds:
            with machine(period_s=bench.period_s()) as stage:
                tally = bench.bench(folder, plan, stage, folder.exists(), progress=_progress)
            print(
                f"\n{folder}: {tally.kernels} kernels, {tally.models} networks added, {dict(tally.left_out)} left out"
            )
        visit(visits, clock)
    if options.real:
        options.real.write_text(json.dumps(visits, indent=1))
    if options.build_only:
        return
    real = {name: sorted(each)[len(each) // 2] for name, each in visits.items()}
    began = time.monotonic()
    found = pricing.taught(folder)
    print(f"learnt in {time.monotonic() - began:.0f} s; {_words(found)}\n")
    rows = list(_compared(found, real))
    _summary(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def visit(taken: dict[str, list[float]], clock: Callable[[], float]) -> None:
    """Adds the seconds of a pass of each network to ``taken``."""
    import torch

    for name, build in unseen():
        module, arguments = build()
        with torch.inference_mode():
            timed = timing.repeat(lambda m=module, a=arguments: m(*a), 1.0, 3.0, clock)
        taken.setdefault(name, []).append(timed.time_s)


def _progress(what: str, spent: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{what}, {spent:.0%} of the budget", end="", file=sys.stderr)


def _words(found: pricing.Pricing) -> str:
    each = found.calibration("time_s")
    costs = ", ".join(f"{name} {cost:.3g}" for name, cost in zip(pricing.TERMS, each.costs, strict=True))
    return f"from {each.networks} networks: {costs}; 90 % within ±{math.expm1(each.spread):.1%}"


def _compared(found: pricing.Pricing, real: dict[str, float]) -> Iterator[dict[str, Any]]:
    print(
        f"{'network':<26}{'predicted':>11}{'interval (90 %)':>22}{'real':>11}{'error':>9}{'FLOPs priced':>14}"
    )
    for name, build in unseen():
        module, arguments = build()
        priced = predict.price(torch_export.from_module(module, arguments, name=name), found)
        real_s = real[name]
        error = priced.time.value / real_s - 1
        inside = priced.time.low <= real_s <= priced.time.high
        interval = f"{priced.time.low * 1e3:.1f} – {priced.time.high * 1e3:.1f}{' ' if inside else '!'}"
        print(
            f"{name:<26}{priced.time.value * 1e3:>8.1f} ms{interval:>22}{real_s * 1e3:>8.1f} ms{error:>+9.1%}"
            f"{priced.flops_covered:>14.1%}",
            flush=True,
        )
        yield {
            "network": name, "predicted_s": priced.time.value, "low_s": priced.time.low, "high_s": priced.time.high,
            "real_s": real_s, "error": error, "inside": inside, "flops_covered": priced.flops_covered,
            "energy_j": priced.energy.value,
        }  # fmt: skip


def _summary(rows: list[dict[str, Any]]) -> None:
    n = len(rows)
    errors = [abs(row["error"]) for row in rows]
    print(
        f"\n{n} networks: MAPE {sum(errors) / n:.1%}, median {sorted(errors)[n // 2]:.1%}, "
        f"within ±10 % {sum(e <= 0.10 for e in errors) / n:.0%}, "
        f"90 % intervals cover {sum(row['inside'] for row in rows) / n:.0%}, "
        f"all FLOPs priced in {sum(row['flops_covered'] >= 1 for row in rows)} of {n}"
    )


if __name__ == "__main__":
    assert networks.kinds()
    main()
