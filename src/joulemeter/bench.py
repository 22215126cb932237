"""Kernels × shapes × device into a data set; then whole networks, so that the sum of kernels can be
checked.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import dataset, fusion, host, kernels, networks, rig, traffic
from joulemeter.device import Device
from joulemeter.errors import DatasetError, GraphError, UsageError
from joulemeter.isolate import Stage
from joulemeter.kernel import Kernel
from joulemeter.kernels import backward as gradients
from joulemeter.ledger import number
from joulemeter.network import Network
from joulemeter.reading import Origin
from joulemeter.record import Record
from joulemeter.timing import DISTURBED, WINDOW_S, Clock, Staged, Timed, in_turn, repeat

if TYPE_CHECKING:
    from joulemeter.models.predictor import Predictor
    from joulemeter.timeline import Timeline

DEVICE_FILE = "device.json"
MODEL_SHARE = 0.35
"""The part of the budget that whole networks take."""
ADAPTIVE_FROM = 0.6
"""The part of the kernels' time after which samples go where the predictor knows least."""
CANDIDATES = 6
_ESTIMATE_S = 0.1
_LONG_S = 300.0
"""Shorter benches have no time to learn in between."""
_FLUSH = 40
GROUP = 32
"""Kernels that are timed in turn with each other: enough that each finds its weights cold again."""
GROUP_S = 4.0
_GROUP_BYTES = 1.5 * 2**30
_GROUP_SHARE = 0.05
"""A group takes no more than this part of a small budget."""
_LEARN_FROM = 1200
"""Kernels that are learnt from on the way: enough to see where little is known, few enough to be quick."""
REFERENCE = Kernel(
    "conv",
    {"height": 56, "width": 56, "in_channels": 64, "out_channels": 64, "kernel_height": 3, "kernel_width": 3},
)
"""Timed with each group and before each network: what it takes says how fast the machine was just then."""
_REFERENCE_S = 0.05
_REST_S = 0.3

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
    clock: Clock = time.perf_counter
    """What is timed: seconds that pass, or CPU seconds (``time.process_time``) on a machine with
    neighbours.
    """


@dataclass
class Tally:
    """What a bench did: counts, and what was left out and why."""

    kernels: int = 0
    models: int = 0
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
    tally, start = Tally(origin=_origin(stage)), time.monotonic()

    def spent() -> float:
        return (time.monotonic() - start) / plan.budget_s

    log = _Log(folder, this, plan, stage)
    rules = {backend: fusion.learn(backend, plan.device, 0.03 * plan.budget_s) for backend in plan.backends}
    last = 1.0 - (MODEL_SHARE if plan.models is not None else 0.0)
    samples = _samples(plan, done)
    for until in (ADAPTIVE_FROM * last, last):
        while spent() < until:
            log.kernel(*next(samples), tally)
            if progress:
                progress(f"{tally.kernels} kernels", spent())
        log.finish(tally)
        if until < last and plan.budget_s >= _LONG_S:
            samples = _least_known(samples, folder)
    for definition in _definitions(plan, done):
        if spent() >= 1:
            break
        tally.models += log.network(definition, tally)
        if progress:
            progress(f"{tally.kernels} kernels, {tally.models} networks", spent())
    log.flush()
    _write_device(folder, this, rules)
    if dataset.is_dataset(folder):
        dataset.write_card(folder)
    return tally


def period_s(specs: Sequence[str] | None = None) -> float | None:
    """How often to read the meters: an estimate ten times a second, because each reading takes a CPU away
    from
    what is timed; a real meter at its own pace (None)."""
    from joulemeter import sources

    chosen = sources.default_specs() if specs is None else specs
    return _ESTIMATE_S if all(spec.partition(":")[0] == sources.FALLBACK for spec in chosen) else None


def _check(plan: Plan) -> None:
    for name in plan.families:
        kernels.family(name)
    for name in plan.models or ():
        networks.variant(name, 0)
    for backend in plan.backends:
        if backend not in rig.backends():
            raise UsageError(f"there is no backend '{backend}' here", f"one of {', '.join(rig.backends())}")


def _resumed(folder: Path, this: Device, resume: bool) -> set[str]:
    """The keys of what ``folder`` already holds."""
    if not dataset.is_dataset(folder):
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


def _mode(kernel: Kernel, backend: str) -> AbstractContextManager[Any]:
    """Without gradients where PyTorch runs forward, as in inference."""
    import torch

    return torch.inference_mode(kernel.direction != "backward" and backend.startswith("torch"))


class _Log:
    """Records on their way to the folder: their energies are read off the meters in one go."""

    def __init__(self, folder: Path, this: Device, plan: Plan, stage: Stage) -> None:
        self.folder, self.device, self.plan, self.stage = folder, this, plan, stage
        self.waiting: list[tuple[Record, Timed]] = []
        self.rest: tuple[int, int] | None = None
        self.throttled = stage.look().throttled
        slow = [rail.period_ns / 1e9 for rail in stage.rails() if rail.origin == "measured"]
        # A meter's edges are known to about a period: fifty of them keep the energy near two per cent.
        self.window_s = max([WINDOW_S, *(50 * each for each in slow)])
        self.measured = bool(slow)
        self.groups: dict[tuple[str, bool], list[tuple[Kernel, Staged]]] = defaultdict(list)
        self.reference = rig.stage(REFERENCE) if plan.device == "cpu" else None

    def kernel(self, kernel: Kernel, backend: str, tally: Tally) -> None:
        """Sets ``kernel`` up to be timed with others in turn; what cannot run here is counted."""
        try:
            staged = rig.stage(kernel, backend, self.plan.device)
            if staged is None:
                tally.left_out[f"{kernel.family} on {backend}: no such kernel"] += 1
                return
            with _mode(kernel, backend):
                staged.call()
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            tally.left_out[f"{kernel.family} {kernel.direction} on {backend}: {line[:120]}"] += 1
            return
        group = self.groups[backend, kernel.direction == "backward"]
        group.append((kernel, staged))
        held = math.fsum(rig.held_bytes(each) for each, _ in group)
        if len(group) >= GROUP or held > _GROUP_BYTES:
            self._measure(group, backend, tally)

    def _measure(self, group: list[tuple[Kernel, Staged]], backend: str, tally: Tally) -> None:
        """Times a group in rounds, once more where others took much of the machine meanwhile."""
        self._rested()
        reference = [] if self.reference is None else [self.reference]
        calls = [*reference, *(staged for _, staged in group)]
        with _mode(group[0][0], backend):
            timed = self._rounds(calls)
            if timed[0].taken > DISTURBED:
                timed = min(timed, self._rounds(calls), key=lambda each: each[0].taken)
            pairs = zip(group, timed[len(reference) :], strict=True)
            own = [self._own_stretch(staged, each) for (_, staged), each in pairs]
        facts = {"reference_s": timed[0].time_s} if reference else {}
        for (kernel, _), each in zip(group, own, strict=True):
            self._add_kernel(kernel, backend, each, facts)
        tally.kernels += len(group)
        group.clear()

    def _rounds(self, calls: Sequence[Staged]) -> list[Timed]:
        if self.plan.device != "cpu":  # a GPU is fed ahead: single launches cannot be timed from outside
            return [repeat(each.call, self.window_s, clock=self.plan.clock) for each in calls]
        return in_turn(calls, min(GROUP_S, _GROUP_SHARE * self.plan.budget_s), self.plan.clock)

    def _own_stretch(self, staged: Staged, timed: Timed) -> Timed:
        """``timed`` with a stretch in which nothing else ran, where a meter must see it alone."""
        if not self.measured or self.plan.device != "cpu":
            return timed
        alone = repeat(staged.call, self.window_s, clock=self.plan.clock)
        return replace(timed, start_ns=alone.start_ns, end_ns=alone.end_ns)

    def _add_kernel(self, kernel: Kernel, backend: str, timed: Timed, more: dict[str, Any]) -> None:
        work, macs = kernels.work(kernel), kernels.multiply_adds(kernel)
        facts = {
            "multiply_adds": macs,
            "least_time_s": traffic.least_time_s(work, macs, self.device, kernel.dtype),
            "moved_bytes": traffic.by_level(work, macs, self.device, kernel.dtype),
            **more,
        }
        self._add(self._record("kernel", kernel.family, backend, timed, kernel=kernel, facts=facts), timed)

    def network(self, definition: networks.Definition, tally: Tally) -> bool:
        """Times a whole network with PyTorch and keeps the kernels it is made of."""
        import torch

        from joulemeter.graphs import torch_export

        try:
            module, arguments = definition.build()
            read = torch_export.from_module(module, arguments, name=definition.name)
        except GraphError as error:
            tally.left_out[f"{definition.name}: {error.fact}"] += 1
            return False
        module, arguments = (
            module.to(self.plan.device),
            tuple(each.to(self.plan.device) for each in arguments),
        )
        self._rested()
        with torch.inference_mode():
            facts = self._reference_s()
            timed = repeat(lambda: module(*arguments), max(1.0, self.window_s), 4.0, self.plan.clock)
        facts |= {"kernels": composition(read), "unpriced": read.unpriced}
        family = definition.name.rpartition("-")[0]
        self._add(self._record("model", family, "torch", timed, network=read, facts=facts), timed)
        return True

    def _reference_s(self) -> dict[str, Any]:
        if self.reference is None:
            return {}
        return {"reference_s": in_turn([self.reference], _REFERENCE_S, self.plan.clock)[0].time_s}

    def _record(
        self, level: Any, family: str, backend: str, timed: Timed, *, facts: dict[str, Any],
        kernel: Kernel | None = None, network: Network | None = None,
    ) -> Record:  # fmt: skip
        works = [kernels.work(each) for each in (network.kernels if network else [kernel] if kernel else [])]
        return Record(
            level=level, family=family, origin="estimated", device=self.device.fingerprint, backend=backend,
            network=network.name if network else "", dtype=kernel.dtype if kernel else "float32",
            batch=kernel.batch if kernel else 1, direction=kernel.direction if kernel else "forward",
            shape=kernel.shape if kernel else {},
            flops=math.fsum(w.flops for w in works), read_bytes=math.fsum(w.read_bytes for w in works),
            write_bytes=math.fsum(w.write_bytes for w in works),
            parameters=network.parameters if network else math.fsum(w.parameters for w in works),
            time_s=timed.time_s, time_low_s=timed.low_s, time_high_s=timed.high_s, repeats=timed.calls,
            facts={**facts, "others_share": number(timed.taken)},
        )  # fmt: skip

    def _rested(self) -> None:
        """A rest before the first of each group of records: the power the others' nets are counted from."""
        if self.rest is None:
            start_ns = self.stage.now_ns()
            self.stage.rest(max(_REST_S, self.window_s))
            self.rest = (start_ns, self.stage.now_ns())

    def _add(self, record: Record, timed: Timed) -> None:
        self.waiting.append((record, timed))
        if len(self.waiting) >= _FLUSH:
            self.flush()

    def finish(self, tally: Tally) -> None:
        """Times what is set up and not timed yet, and writes all of it down."""
        for (backend, _), group in self.groups.items():
            if group:
                self._measure(group, backend, tally)
        self.flush()

    def flush(self) -> None:
        """Reads the meters for whatever is waiting, and appends it to the data set."""
        if not self.waiting:
            return
        self.stage.rest(0.05)  # so that the last window has been read
        lines = self.stage.timelines()
        idle_w = _power_w(lines, *self.rest) if self.rest else math.nan
        now = self.stage.look()
        hot = None if now.throttled is None or self.throttled is None else now.throttled > self.throttled
        self.throttled = now.throttled
        made = [_with_energy(record, timed, lines, idle_w, self.stage) for record, timed in self.waiting]
        made = [replace(each, temperature_c=now.temperature_c, throttled=hot) for each in made]
        dataset.append(self.folder, made)
        self.waiting.clear()
        self.rest = None


def _power_w(lines: Sequence[Timeline], start_ns: int, end_ns: int) -> float:
    from joulemeter.reading import outermost

    outer = {rail.id for rail in outermost(tuple(line.rail for line in lines))}
    inside = [line for line in lines if line.rail.id in outer]
    joules = math.fsum(
        line.between(start_ns + (line.rail.lag_ns or 0), end_ns + (line.rail.lag_ns or 0)) for line in inside
    )
    return joules / ((end_ns - start_ns) / 1e9) if inside else math.nan


def _origin(stage: Stage) -> Origin:
    """``measured`` where every rail is; one estimate among them makes the sum an estimate."""
    origins = {rail.origin for rail in stage.rails()}
    return origins.pop() if len(origins) == 1 else "estimated"


def _with_energy(
    record: Record, timed: Timed, lines: Sequence[Timeline], idle_w: float, stage: Stage
) -> Record:
    """The record with the power of its window: energy = power × time, its interval that of both."""
    rails = stage.rails()
    power_w = _power_w(lines, timed.start_ns, timed.end_ns)
    error = max((rail.relative_error for rail in rails), default=math.nan)
    net_w = max(0.0, power_w - idle_w)
    low_s, high_s = timed.low_s * (1 - error), timed.high_s * (1 + error)
    return replace(
        record, origin=_origin(stage), power_w=power_w, idle_power_w=idle_w, energy_j=power_w * timed.time_s,
        energy_low_j=power_w * low_s, energy_high_j=power_w * high_s, net_energy_j=net_w * timed.time_s,
        net_low_j=net_w * low_s, net_high_j=net_w * high_s,
        source=", ".join(sorted({rail.source for rail in rails})),
    )  # fmt: skip


def composition(network: Network) -> list[list[Any]]:
    """The kernels of ``network`` with how often each occurs, as plain values."""
    counted = Counter(kernel.key for kernel in network.kernels)
    by_key = {kernel.key: kernel for kernel in network.kernels}
    return [[by_key[key].to_json(), count] for key, count in counted.items()]


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
        raise DatasetError(f"{path}: cannot be read ({error!r})") from error
