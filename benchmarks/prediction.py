"""How well energies are foreseen on published measurements, beside the published recipe, in one run.

    python benchmarks/prediction.py [--data ../shared/data] [--seeds 3] [--markdown]

Kernels: 5 folds grouped by configuration; all of a fold's choices (model, features, hyperparameters, intervals)
are made on the other four. Networks: each is left out in turn, with its kernels. MobileNetV1: 25 variants summed
from kernels, beside the published range of 50 measured ones. The published recipe is a random forest for each
family on its raw configuration, FLOPs and parameters (nn-Meter, MobiSys 2021; DeepEn2023, SEC 2023).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from joulemeter import dataset_import, evaluate
from joulemeter.accuracy import Accuracy, measure
from joulemeter.dataset import Dataset
from joulemeter.kernel import Kernel, Work
from joulemeter.models import features, learning, regression, trees
from joulemeter.models.plausibility import implausible_power
from joulemeter.record import Record

Prices = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
Recipe = Callable[[Sequence[Record], Sequence[Record]], Prices]


def joulemeter_recipe(train: Sequence[Record], test: Sequence[Record]) -> Prices:
    """This project's predictor."""
    made = learning.fit(train).predict([r.kernel for r in test], [r.work for r in test])
    return made.value, made.low, made.high


def published_recipe(train: Sequence[Record], test: Sequence[Record]) -> Prices:
    """A random forest on the raw configuration of each family; it gives no interval."""
    value = np.full(len(test), np.nan)
    for family in sorted({record.family for record in test}):
        rows = [i for i, record in enumerate(test) if record.family == family]
        known = [record for record in train if record.family == family]
        if not known:
            continue
        seen = [features.describe(r.kernel, r.work) for r in known]
        columns = features.names(seen, "published")
        target = np.array([record.energy_j for record in known])
        most = min(6, len(columns)) or None
        grown = trees.forest(
            features.table(seen, columns), target, n_estimators=320, max_depth=70, max_features=most
        )
        asked = [features.describe(test[i].kernel, test[i].work) for i in rows]
        value[rows] = grown.predict(features.table(asked, columns))
    return value, np.full(len(test), np.nan), np.full(len(test), np.nan)


def folded(records: Sequence[Record], recipe: Recipe, seed: int) -> Prices:
    """What ``recipe`` says of each record when its fold is left out."""
    keys = {record.key: i for i, record in enumerate(records)}
    folds = regression.folded(np.array([keys[record.key] for record in records], np.int64), seed)
    prices = tuple(np.full(len(records), np.nan) for _ in range(3))
    for fold in range(regression.FOLDS):
        held = np.flatnonzero(folds == fold)
        train = [record for record, f in zip(records, folds, strict=True) if f != fold]
        for column, made in zip(prices, recipe(train, [records[i] for i in held]), strict=True):
            column[held] = made
    return prices[0], prices[1], prices[2]


def mean(accuracies: Sequence[Accuracy]) -> Accuracy:
    """The mean of accuracies over seeds."""
    rows = [accuracy.to_json() for accuracy in accuracies]
    figures = {name: [row[name] for row in rows] for name in rows[0]}
    return Accuracy.from_json(
        {
            name: None if None in values else (values[0] if name == "n" else float(np.mean(values)))  # type: ignore[arg-type]
            for name, values in figures.items()
        }
    )


def by_family(records: Sequence[Record], recipe: Recipe, seeds: int) -> dict[str, Accuracy]:
    """Accuracy by published family name, of all others than convolutions, and overall; mean over seeds."""
    found: dict[str, list[Accuracy]] = defaultdict(list)
    true = np.array([record.energy_j for record in records])
    names = np.array([record.name for record in records])
    for seed in range(seeds):
        prices = folded(records, recipe, seed)
        groups = {name: names == name for name in sorted(set(names))}
        if len(groups) > 1:
            groups["all but conv-bn-relu"] = names != "conv-bn-relu"
        groups["overall"] = np.ones(len(names), bool)
        for name, rows in groups.items():
            found[name].append(measure(true[rows], *(column[rows] for column in prices)))
    return {name: mean(each) for name, each in found.items()}


def networks_left_out(records: Sequence[Record]) -> dict[str, dict[str, Accuracy]]:
    """Whole-network accuracy, each network left out of the learning with all its kernels and modules: from
    readings of its run, as the paper's, and from structure alone."""
    names = sorted({record.network for record in records if record.level == "model"})
    found: dict[str, dict[str, Accuracy]] = {evaluate.NETWORK: {}, evaluate.NEVER_RUN: {}}
    for network in names:
        train = Dataset("others", tuple(record for record in records if record.network != network))
        test = Dataset(network, tuple(record for record in records if record.network == network))
        families = evaluate.evaluate(train, test).families
        for name, each in found.items():
            each[network] = families[name]
    for each in found.values():
        n = sum(accuracy.n for accuracy in each.values())
        each["mean of the networks"] = replace(mean(list(each.values())), n=n)
    return found


def mobilenets(path: Path, train: Sequence[Record]) -> tuple[NDArray[np.float64], list[str]]:
    """Energies (n,) in joules of the variants, summed from kernels, and the families without a price."""
    from joulemeter.importers import deepen_kernels

    predictor = learning.fit(train)
    totals, missing = [], set()
    for layers in json.loads(path.read_text()).values():
        kernels: list[Kernel] = []
        works: list[Work] = []
        for layer in layers.values():
            row = {
                "kernel": layer["op"], "HW": 7 if layer["op"] == "global-pool" else layer.get("inputh", 1), "CIN": layer["cin"], "COUT": layer.get("cout"),
                "KERNEL_SIZE": layer.get("ks"), "STRIDES": layer.get("stride"), "energy_mJ": 1,
            }  # fmt: skip
            record = deepen_kernels.record({k: v for k, v in row.items() if v is not None}, path.name)
            kernels.append(record.kernel)
            works.append(record.work)
        made = predictor.predict(kernels, works)
        missing |= {kernel.family for kernel, own in zip(kernels, made.own, strict=True) if not own}
        totals.append(float(np.nansum(np.where(made.own, made.value, 0.0))))
    return np.array(totals), sorted(missing)


def show(title: str, accuracies: dict[str, Accuracy], markdown: bool) -> None:
    """A table on stdout."""
    columns = ("n", "RMSPE", "MAPE", "median", "±5 %", "±10 %", "±15 %", "in 90 %", "width", "by energy")
    print(f"\n### {title}\n" if markdown else f"\n{title}")
    lines = [(("", *columns))]
    for name, a in accuracies.items():
        figures = (a.rmspe, a.mape, a.median_ape, a.within_5, a.within_10, a.within_15, a.coverage_90, a.width_90,
                   a.energy_weighted_mape)  # fmt: skip
        cells = ["—" if np.isnan(value) else f"{100 * value:.1f}" for value in figures]
        lines.append((name, str(a.n), *cells))
    for i, line in enumerate(lines):
        if markdown:
            print("| " + " | ".join(line) + " |")
            if i == 0:
                print("|---" + "|---:" * len(columns) + "|")
        else:
            print(f"{line[0]:<28}" + "".join(f"{cell:>10}" for cell in line[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of the 5 folds, with other folds")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", choices=("cpu", "gpu", "mobilenet", "irene"))
    options = parser.parse_args()
    started = time.monotonic()
    deepen = options.data / "deepen2023"
    cpu = dataset_import.load(deepen / "kernels_cpu.csv").records
    wrong = set(implausible_power(cpu))
    cpu = tuple(record for i, record in enumerate(cpu) if i not in wrong)
    print(f"left out for an impossible power: {len(wrong)} row(s)")
    gpu = dataset_import.load(deepen / "conv_gpu.csv").records
    for key, name, records in (("cpu", "Phone CPU", cpu), ("gpu", "Phone GPU", gpu)):
        if options.only in (None, key):
            title = f"{name}, 5 folds by configuration, mean of {options.seeds} foldings"
            show(
                f"{title}: published recipe",
                by_family(records, published_recipe, options.seeds),
                options.markdown,
            )
            show(
                f"{title}: joulemeter", by_family(records, joulemeter_recipe, options.seeds), options.markdown
            )
    if options.only in (None, "mobilenet"):
        print("\nMobileNetV1 variants summed from kernels (mJ)")
        variants = deepen / "mobilenetv1_variants.json"
        for name, records, low, high in (("CPU", cpu, 53.59, 136.79), ("GPU", gpu, 17.36, 42.44)):
            totals, missing = mobilenets(variants, records)
            left = f"; without {', '.join(missing)}, of which there are no measurements" if missing else ""
            inside = int(((totals * 1e3 >= low) & (totals * 1e3 <= high)).sum())
            print(f"  {name}: {totals.min() * 1e3:.2f} to {totals.max() * 1e3:.2f}; published {low} to {high}; "
                  f"{inside} of {len(totals)} inside{left}")  # fmt: skip
    if options.only in (None, "irene"):
        irene = dataset_import.load(options.data / "irene").records
        for name, each in networks_left_out(irene).items():
            show(f"IrEne transformers, each left out: {name}", each, options.markdown)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
