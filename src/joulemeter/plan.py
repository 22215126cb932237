"""Plans of training sweeps: TOML in, configurations out."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from joulemeter import topology, training_data
from joulemeter.errors import UsageError

FOLDER = Path(__file__).parent / "plans"
AXES: dict[str, tuple[str, type, list[Any]]] = {
    "datasets": ("dataset", str, []),
    "shapes": ("shape", str, ["rectangle"]),
    "depths": ("depth", int, []),
    "sizes": ("size", int, []),
    "learning_rates": ("learning_rate", float, [1e-4]),
    "batch_sizes": ("batch_size", int, [256]),
    "optimizers": ("optimizer", str, ["adam"]),
    "devices": ("device", str, ["cpu"]),
    "threads": ("threads", int, [0]),
    "dtypes": ("dtype", str, ["float32"]),
    "epochs": ("epochs", int, [1]),
}
"""Each axis of a plan: the field it sets, its kind, and its values where the plan names none."""
SEQUENCES = ("transformer", "cnn")
"""Shapes that read a row's inputs as a sequence; their width is solved when they are built."""
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad")
DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """One training: what is trained on what, how, and where. ``threads`` 0 leaves PyTorch's own number."""

    dataset: str
    shape: str
    depth: int
    size: int
    learning_rate: float = 1e-4
    batch_size: int = 256
    optimizer: str = "adam"
    device: str = "cpu"
    threads: int = 0
    dtype: str = "float32"
    epochs: int = 1
    repetition: int = 0

    @property
    def key(self) -> str:
        """A hash of the configuration and its repetition: the name of its record."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def seed(self) -> int:
        """The seed of its weights and batches: another one for each repetition."""
        return int(self.key[:8], 16)


@dataclass(frozen=True)
class Plan:
    """Configurations to train in this order, repetitions last, and how many were rejected and why."""

    name: str
    configurations: tuple[Configuration, ...]
    rejected: Mapping[str, int] = field(default_factory=dict)
    reachable: int = 0
    """Configurations of the grid before any were drawn, repetitions not counted."""

    @property
    def fingerprint(self) -> str:
        """The same for plans of the same configurations, whatever their order."""
        return hashlib.sha256("".join(sorted(c.key for c in self.configurations)).encode()).hexdigest()[:16]

    @property
    def distinct(self) -> int:
        """Configurations, repetitions not counted."""
        return sum(each.repetition == 0 for each in self.configurations)


def names() -> list[str]:
    """The plans that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(where: str | Path, devices: tuple[str, ...] = ()) -> Plan:
    """The plan in a TOML file, or the one of that name; ``devices`` take the place of the plan's.

    Raises UsageError where it is not there, is no TOML, or says something a plan does not know.
    """
    path, remedy = Path(where), f"a TOML file, or one of {', '.join(names())}"
    if not path.exists() and str(where) in names():
        path = FOLDER / f"{where}.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{where}: no such plan", remedy) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{where}: cannot be read as a plan ({error})", remedy) from error
    if devices:
        data["devices"] = list(devices)
    return make(data, name=str(data.pop("name", path.stem)), whole_grid_may_do=bool(devices))


def make(data: Mapping[str, Any], name: str = "plan", *, whole_grid_may_do: bool = False) -> Plan:
    """The plan that ``data`` says: a list an axis, ``repetitions``, ``tolerance``, ``sample`` and ``seed``.

    Topologies off their size by more than ``tolerance`` (0.2) are rejected; at depth 2 all dense shapes are
    one network, and only the first is kept. A sample larger than the grid is refused, or with
    ``whole_grid_may_do`` is the grid.
    """
    data = dict(data)
    repetitions, tolerance = data.pop("repetitions", 1), float(data.pop("tolerance", 0.2))
    count, seed = data.pop("sample", None), data.pop("seed", 0)
    axes = [_values(axis, data.pop(axis, None)) for axis in AXES]
    if data:
        raise UsageError(f"a plan knows no {', '.join(data)}", f"{', '.join(AXES)}, repetitions, …")
    if not _whole(repetitions, 1) or (count is not None and not _whole(count, 1)):
        raise UsageError(
            "the plan's repetitions or sample is no whole number of 1 or more", "repetitions = 3"
        )
    rejected: Counter[str] = Counter()
    kept = list(_reachable(axes, tolerance, rejected))
    chosen = kept
    if count is not None:
        if count > len(kept) and not whole_grid_may_do:
            fact = f"the plan asks for a sample of {count}, its grid has {len(kept)}"
            raise UsageError(fact, f"sample = {len(kept)}, or none")
        chosen = random.Random(seed).sample(kept, min(count, len(kept)))
    runs = tuple(
        Configuration(**{**each, "repetition": repetition})
        for repetition in range(repetitions)
        for each in chosen
    )
    if not runs:
        raise UsageError("no configuration of the plan can be reached", "other sizes, depths or tolerance")
    return Plan(name, runs, dict(rejected), len(kept))


def _values(axis: str, given: Any) -> list[Any]:
    _, kind, default = AXES[axis]
    values = default if given is None else given
    if not isinstance(values, list) or not values:
        example = json.dumps(default or [3 if axis == "depths" else 4096 if kind is int else "banana"])
        raise UsageError(f"the plan's {axis} are not a list with values in it", f"{axis} = {example}")
    right = (int, float) if kind is float else (kind,)
    wrong = [v for v in values if not isinstance(v, right) or isinstance(v, bool)]
    low = {"depths": 2, "threads": 0}.get(axis, 1)
    wrong += [v for v in values if kind is int and not wrong and v < low]
    wrong += [v for v in values if kind is float and not wrong and not v > 0]
    allowed = {"shapes": (*topology.SHAPES, *SEQUENCES), "optimizers": OPTIMIZERS, "dtypes": DTYPES}.get(axis)
    wrong += [v for v in values if allowed and v not in allowed and _unspelt(v) not in allowed]
    if wrong:
        numbers = f"whole numbers of {low} or more" if kind is int else "numbers above 0"
        words = ", ".join(allowed) if allowed else "words" if kind is str else numbers
        raise UsageError(f"the plan's {axis} hold {wrong[0]!r}", words)
    return [kind(value) for value in dict.fromkeys(values)]


def _unspelt(shape: str) -> str:
    """``wide_first_4`` as ``wide_first_4x``: both are spelt."""
    head, residual, _ = shape.partition("_residual")
    return f"{head}x{residual}" if head[-1:].isdecimal() else shape


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _reachable(axes: list[list[Any]], tolerance: float, rejected: Counter[str]) -> Iterator[dict[str, Any]]:
    """The grid less what cannot be built; the network is solved once for all ways to train it."""
    fields = [AXES[axis][0] for axis in AXES]
    networks = [axes[fields.index(name)] for name in ("dataset", "shape", "depth", "size")]
    how = axes[4:]
    twos: set[tuple[str, int]] = set()
    ways = 1
    for values in how:
        ways *= len(values)
    for dataset, shape, depth, size in itertools.product(*networks):
        facts = training_data.facts(dataset)
        if shape not in SEQUENCES:
            try:
                topology.solve(
                    shape, depth=depth, size=size, inputs=facts.inputs, outputs=facts.outputs,
                    tolerance=tolerance,
                )  # fmt: skip
            except UsageError:
                rejected[f"no network within {tolerance:.0%} of its size"] += ways
                continue
            if depth == 2 and (dataset, size) in twos:
                rejected["the same network as another shape at depth 2"] += ways
                continue
            twos |= {(dataset, size)} if depth == 2 else set()
        for rest in itertools.product(*how):
            yield dict(zip(fields, (dataset, shape, depth, size, *rest), strict=True))
