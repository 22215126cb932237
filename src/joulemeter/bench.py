"""Kernels × shapes × device into a data set; then whole networks, so that the sum of kernels can be checked;
then, where asked for, applications.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import dataset, fusion, host, kernels, networks, rig
from joulemeter.bench_log import GROUP, Log, origin
from joulemeter.device import Device
from joulemeter.errors import DatasetError, UsageError
from joulemeter.isolate import Stage
from joulemeter.kernel import Kernel
from joulemeter.kernels import backward as gradients
from joulemeter.reading import Origin
from joulemeter.timing import Clock

if TYPE_CHECKING:
    from joulemeter.models.predictor import Predictor

DEVICE_FILE = "device.json"
MODEL_SHARE = 0.7
"""The part of the budget that whole networks and their kernels take; the rest goes to kernels drawn alone."""
APPLICATION_SHARE = 0.15
"""The part of the budget that applications take where they are asked for."""
ADAPTIVE_FROM = 0.6
"""The part of the time of kernels drawn alone after which samples go where the predictor knows least."""
CANDIDATES = 6
_ESTIMATE_S = 0.1
_LONG_S = 300.0
"""Shorter benches have no time to learn in between."""
_LEARN_FROM = 1200
"""Kernels that are learnt from on the way: enough to see where little is known, few enough to be quick."""
_POOL = 4
"""Groups that are drawn at once and parted by size: kernels of a network are about as large as each other."""

# How many of each hundred samples a family gets: those that most of the time of networks goes to, and that
# have the most dimensions, get the most. Families not named get 1.
WEIGHTS: dict[str, float] = {
    "conv": 30, "dwconv": 9, "fc": 16, "matmul": 4, "attention": 4, "bn": 4, "layernorm": 4, "add": 5,
    "mul": 4,
    "relu": 3, "gelu": 3, "silu": 2, "hswish": 2, "copy": 5, "concat": 3, "softmax": 3, "maxpool": 2,
    "elementwise": 2,
    "global-avgpool": 2,
}  # fmt: skip
# Families that PyTorch runs one by one are not sampled fused for it.
_FUSED_ONLY = ("-relu", "-hswish", "-silu", "-bn", "-add", "-gelu")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bench: families (empty: all), networks (empty: all; None: none), backends, seconds."""

    budget_s: float
    families: tuple[str, ...] = ()
    models: tuple[str, ...] | None = ()
    backends: tuple[str, ...] = ("torch",)
    device: str = "cpu"
    seed: int = 0
    backward: float = 0.08
    """The share of kernels that are timed backward."""
    applications: bool = False
    """Whether to measure the applications too: what comes before and after a network with it."""
    clock: Clock = time.perf_counter
    """What is timed: seconds that pass, or CPU seconds (``time.process_time``) on a machine with
    neighbours.
    """


@dataclass
class Tally:
    """What a bench did: counts, and what was left out and why."""

    kernels: int = 0
    models: int = 0
    applications: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    origin: Origin = "estimated"

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {**asdict(self), "left_out": dict(self.left_out)}


Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of the budget spent."""


def bench(
    folder: str | Path, plan: Plan, stage: Stage, resume: bool = False, progress: Progress | None = None
) -> Tally:
    """Builds the data set of a device in ``folder`` within the plan's budget.

    Raises DatasetError where there is a data set already and ``resume`` is not set, or it is of another
    device;
    UsageError for unknown families, networks or backends.
    """
    folder = Path(folder)
    _check(plan)
    this = host.device(plan.device)
    done = _resumed(folder, this, resume)
    tally, start = Tally(origin=origin(stage)), time.monotonic()

    def spent() -> float:
        """The share of the budget for kernels and networks that has passed."""
        share = 1.0 - APPLICATION_SHARE if plan.applications else 1.0
        return (time.monotonic() - start) / (plan.budget_s * share)

    log = Log(folder, this, plan, stage)
    rules = {backend: fusion.learn(backend, plan.device, 0.03 * plan.budget_s) for backend in plan.backends}
    alone = 1.0 if plan.models is None else 1.0 - MODEL_SHARE

    def noted() -> None:
        """Tells how far it is, and in the folder of which device the records are: it may be killed."""
        if dataset.is_dataset(folder) and not (folder / DEVICE_FILE).is_file():
            _write_device(folder, this, rules)
        if progress:
            progress(f"{tally.kernels} kernels, {tally.models} networks", spent())

    def drawn(until: float) -> None:
        """Benches kernels until ``until`` of the budget has passed."""
        samples = _samples(plan, done)
        if until > alone * ADAPTIVE_FROM and plan.budget_s >= _LONG_S and dataset.is_dataset(folder):
            samples = _least_known(samples, folder)
        groups = _groups(samples)
        while spent() < until:
            log.group(next(groups), tally)
            noted()
        log.flush()

    try:
        drawn(ADAPTIVE_FROM * alone)
        drawn(alone)
        for definition in _definitions(plan, done):
            if spent() >= 1 and tally.models:  # what was asked for is there at least once
                break
            log.network(definition, done, tally)
            noted()
        drawn(1.0)  # where all networks are there already
        if plan.applications:
            tally.applications = _applications(folder, plan, stage, this, done)
    finally:
        # After an interrupt too: what was timed is a data set, which --resume goes on from.
        log.flush()
        if dataset.is_dataset(folder):
            _write_device(folder, this, rules)
            dataset.write_card(folder)
    return tally


def period_s(specs: Sequence[str] | None = None) -> float | None:
    """How often to read the meters: an estimate ten times a second, because each reading takes a CPU away
    from what is timed; a real meter at its own pace (None)."""
    from joulemeter import sources

    chosen = sources.default_specs() if specs is None else specs
    return _ESTIMATE_S if all(spec.partition(":")[0] == sources.FALLBACK for spec in chosen) else None


def _check(plan: Plan) -> None:
    for name in plan.families:
        kernels.family(name)
    for name in plan.models or ():
        networks.variant(name, 0)
    if plan.applications and plan.device != "cpu":
        raise UsageError(f"applications run on the CPU, not on {plan.device}", "--device cpu")
    for backend in plan.backends:
        if backend not in rig.backends():
            raise UsageError(f"there is no backend '{backend}' here", f"one of {', '.join(rig.backends())}")


def _resumed(folder: Path, this: Device, resume: bool) -> set[str]:
    """The keys of what ``folder`` already holds."""
    if not dataset.is_dataset(folder):
        dataset.refuse_other(folder)  # now, and not when the first records are written
        return set()
    if not resume:
        raise DatasetError(
            f"{folder}: there is a data set already", "--resume to go on with it, or another folder"
        )
    known = dataset.read(folder)
    others = [device for device in known.devices if device != this.fingerprint]
    if others:
        raise DatasetError(
            f"{folder}: is of device {others[0]}, this is {this.fingerprint}", "another folder"
        )
    return {f"{record.backend}/{record.network or record.kernel.key}" for record in known.records}


def _samples(plan: Plan, done: set[str]) -> Iterator[tuple[Kernel, str]]:
    """Kernels without end, families in proportion to their weights, none twice."""
    rng = np.random.default_rng(plan.seed)
    while True:
        for backend in plan.backends:
            names = plan.families or _worthwhile(backend)
            weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
            name = str(rng.choice(names, p=weights / weights.sum()))
            kernel = kernels.family(name).sample(name, rng)
            gradient = f"{name}-backward" in kernels.families() and not plan.families
            if gradient and rng.random() < plan.backward:
                kernel = gradients.of(kernel)
            key = f"{backend}/{kernel.key}"
            if key not in done or kernel.family == "view":
                done.add(key)
                yield kernel, backend


def _least_known(samples: Iterator[tuple[Kernel, str]], folder: Path) -> Iterator[tuple[Kernel, str]]:
    """Of every few samples the one whose interval is widest, by what has been measured so far.

    The interval says where little is known before anything is measured there; how badly a prediction turned
    out is never looked at.
    """
    from joulemeter.models import learning

    records = dataset.read(folder).records
    known = {}
    for backend in {record.backend for record in records if record.level == "kernel"}:
        mine = [r for r in records if r.level == "kernel" and r.backend == backend]
        mine = [mine[i] for i in np.random.default_rng(0).permutation(len(mine))[:_LEARN_FROM]]
        if any(record.energy_j > 0 for record in mine):
            known[backend] = learning.fit(mine)
    while True:
        few = [next(samples) for _ in range(CANDIDATES)]
        backend = few[0][1]
        same = [kernel for kernel, each in few if each == backend]
        yield (widest(same, known[backend]), backend) if backend in known else few[0]


def _groups(samples: Iterator[tuple[Kernel, str]]) -> Iterator[list[tuple[Kernel, str]]]:
    """Kernels that are timed in turn: of about one size, as the layers of a network are, because what runs
    between two calls decides what the caches still hold."""
    while True:
        pool = sorted((next(samples) for _ in range(_POOL * GROUP)), key=lambda each: rig.held_bytes(each[0]))
        for start in np.random.default_rng(len(pool)).permutation(_POOL) * GROUP:
            yield pool[start : start + GROUP]


def widest(candidates: Sequence[Kernel], predictor: Predictor) -> Kernel:
    """The candidate whose predicted interval is widest for its value; one that has none first of all."""
    estimates = predictor.predict(candidates, [kernels.work(each) for each in candidates])
    width = np.log(np.maximum(estimates.high, 1e-300) / np.maximum(estimates.low, 1e-300))
    return candidates[int(np.argmax(np.where(np.isnan(width), np.inf, width)))]


def _worthwhile(backend: str) -> tuple[str, ...]:
    """The families worth sampling: fused ones only where something fuses them."""
    names = tuple(sorted(name for name in kernels.families() if not name.endswith("-backward")))
    if backend != "torch":
        return names
    return tuple(name for name in names if not any(part in name for part in _FUSED_ONLY))


def _definitions(plan: Plan, done: set[str]) -> Iterator[networks.Definition]:
    """Variants of each network in turn, those already there left out."""
    names = plan.models or tuple(sorted(networks.kinds()))
    for index in range(networks.VARIANTS if plan.models is not None else 0):
        for name in names:
            definition = networks.variant(name, index)
            if f"{plan.backends[0]}/{definition.name}" not in done:
                yield definition


def _applications(folder: Path, plan: Plan, stage: Stage, this: Device, done: set[str]) -> int:
    """Measures the applications that are not ``done``; how many records that made."""
    from joulemeter import applications

    left = [each for each in applications.applications() if f"CPU1/{each.network}" not in done]
    limit_s = plan.budget_s * APPLICATION_SHARE / max(1, len(left) * len(applications.processors()))
    for each in left:
        dataset.append(folder, applications.measured(stage, this.fingerprint, (each,), limit_s=limit_s))
    return len(left) * len(applications.processors())


def _write_device(folder: Path, this: Device, rules: dict[str, list[fusion.Tested]]) -> None:
    tested = {backend: [each.to_json() for each in found] for backend, found in rules.items()}
    text = json.dumps({"schema": 1, "device": this.to_json(), "fusion": tested}, indent=2)
    (folder / DEVICE_FILE).write_text(text)


def read_device(folder: str | Path) -> tuple[Device, dict[str, list[fusion.Tested]]]:
    """The device that the data set or predictor in ``folder`` is of, and what its backends fuse.

    Raises DatasetError where that is not stored or torn.
    """
    path = Path(folder) / DEVICE_FILE
    try:
        data = json.loads(path.read_text())
        rules = {
            backend: [fusion.Tested(**each) for each in found] for backend, found in data["fusion"].items()
        }
        return Device.from_json(data["device"]), rules
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file", "joulemeter bench -o FOLDER writes one") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error!r})", "joulemeter bench -o FOLDER --resume writes it anew"
        ) from error
