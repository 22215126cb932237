"""How far the energy model lies from real runs that it never saw: the tables of docs/energy-model.md.

    python benchmarks/energy_model.py [RUNS.csv] [--write]

RUNS.csv is a sample of the BUTTER-E runs (Tripp et al. 2024, DOI 10.25984/2329316, CC-BY-4.0); the default is
../shared/data/butter-e/runs.csv. With --write the tables and plots in docs/ are replaced.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from joulemeter import energy_model, energy_plots, energy_runs, units
from joulemeter.models.hierarchy import energy
from joulemeter.models.hierarchy.training import Runs

ROOT = Path(__file__).parents[1]
RUNS = ROOT.parent / "shared" / "data" / "butter-e" / "runs.csv"
PAGE = ROOT / "docs" / "energy-model.md"
START, END = "<!-- tables: python benchmarks/energy_model.py --write -->", "<!-- end of tables -->"
WAYS = {
    "each data set left out": "groups",
    "random eighths left out": "eighths",
    "two data sets and a third of the rest left out, ten times": "mixed",
}


def splits(way: str, runs: Runs) -> Iterator[np.ndarray]:
    """The runs left out, one mask after another."""
    random = np.random.default_rng(1)
    names = np.unique(runs.groups)
    if way == "groups":
        yield from (runs.groups == name for name in names)
    elif way == "eighths":
        fold = random.permutation(len(runs)) % 8
        yield from (fold == k for k in range(8))
    else:
        for _ in range(10):
            two = np.isin(runs.groups, random.choice(names, 2, replace=False))
            yield two | (random.random(len(runs)) < 1 / 3)


def tried(runs: Runs, way: str) -> dict[str, np.ndarray]:
    """True, predicted, low and high joules of all left-out runs; what each fit chose is under ``chosen``."""
    levels = energy_runs.levels_of(energy_runs.Table(runs, published=True))[runs.devices[0]]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("true", "value", "physics", "low", "high")}
    chosen: list[str] = []
    each: list[tuple[float, float]] = []
    for out in splits(way, runs):
        model, unseen = energy.fit(runs.take(~out), levels), runs.take(out)
        predicted = [values[unseen.which] for values in model.predict(unseen.trainings)]
        physics = model.predict(unseen.trainings, only=())[0][unseen.which]
        chosen.append(model.choices.words)
        value, low, high = predicted
        inside = (low <= unseen.energy_j) & (unseen.energy_j <= high)
        each.append((np.abs(value / unseen.energy_j - 1).mean(), inside.mean()))
        for name, values in zip(
            columns, [unseen.energy_j, predicted[0], physics, *predicted[1:]], strict=True
        ):
            columns[name].append(values)
    found = {name: np.concatenate(values) for name, values in columns.items()}
    return {**found, "chosen": np.array(chosen), "each": np.array(each)}


def error_table(runs: Runs) -> tuple[list[str], dict[str, Counter[str]]]:
    """Markdown of the errors per device and way of leaving out, and what the fits chose."""
    lines = [
        "| device | tried on | runs | mean error | single splits | median | without correction | within 90 % | single splits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    chosen: dict[str, Counter[str]] = {}
    for device in runs.devices:
        for words, way in WAYS.items():
            found = tried(runs.of_device(device), way)
            error = np.abs(found["value"] / found["true"] - 1)
            physics = np.abs(found["physics"] / found["true"] - 1).mean()
            least, most = found["each"].min(axis=0), found["each"].max(axis=0)
            inside = ((found["low"] <= found["true"]) & (found["true"] <= found["high"])).mean()
            lines.append(
                f"| {device} | {words} | {len(error)} | {error.mean():.1%} | {least[0]:.1%} to {most[0]:.1%} | "
                f"{np.median(error):.1%} | {physics:.1%} | {inside:.1%} | {least[1]:.0%} to {most[1]:.0%} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
            chosen.setdefault(device, Counter()).update(found["chosen"].tolist())
    return lines, chosen


def cost_tables(fitted: energy_model.Fitted) -> list[str]:
    """Markdown of each device's costs that are not zero."""
    lines: list[str] = []
    for device, model in fitted.models.items():
        found = energy_model.describe(model)
        lines += ["", f"Costs on the {device} node, all {found['runs']} runs:", ""]
        lines += ["| term | cost | 90 % interval | per |", "|---|---|---|---|"]
        for row in found["costs"]:
            low, value, high = (units.joules(row[key]) for key in ("low", "cost", "high"))
            if row["high"] > 0:
                lines.append(f"| {row['term']} | {value} | {low} to {high} | {row['joules_per']} |")
    return lines


def effect_table(fitted: energy_model.Fitted) -> list[str]:
    """Markdown of the greatest learned effects."""
    lines: list[str] = []
    for device, model in fitted.models.items():
        if model.correction is None or not model.correction.values:
            lines += ["", f"The {device} model keeps no correction: validation found none that helps."]
            continue
        spread = ", ".join(f"{group} {value:.1%}" for group, value in model.correction.deviation.items())
        greatest = sorted(model.correction.values.items(), key=lambda item: -abs(item[1]))[:10]
        lines += [
            "",
            f"The {device} model's correction (standard deviations: {spread}); its greatest effects:",
            "",
        ]
        lines += ["| effect | on energy |", "|---|---|"]
        lines += [f"| {name} | {np.expm1(value):+.1%} |" for name, value in greatest]
    return lines


def main() -> None:
    """Prints the tables; with --write puts them and the plots into docs/."""
    arguments = [text for text in sys.argv[1:] if not text.startswith("--")]
    table = energy_runs.read(Path(arguments[0]) if arguments else RUNS)
    lines, chosen = error_table(table.runs)
    for device, counts in chosen.items():
        lines += ["", f"What the {device} fits chose by validation within their own runs: "]
        lines += [f"- {count} of {counts.total()}: {words}" for words, count in counts.most_common()]
    fitted = energy_model.fit(table.runs, energy_runs.levels_of(table), bootstrap=200)
    lines += [*cost_tables(fitted), *effect_table(fitted)]
    text = "\n".join(lines)
    print(text)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(START)
        PAGE.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
        energy_plots.draw(table.runs, fitted, ROOT / "docs" / "images", endings=("png",))


if __name__ == "__main__":
    main()
