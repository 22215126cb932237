"""Kernels and networks set up, timed, priced off the meters, and written into a data set."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter import dataset, kernels, networks, rig, traffic
from joulemeter.device import Device
from joulemeter.errors import GraphError
from joulemeter.isolate import Stage
from joulemeter.kernel import Kernel
from joulemeter.ledger import number
from joulemeter.network import Network
from joulemeter.reading import Origin
from joulemeter.record import Record
from joulemeter.timing import DISTURBED, WINDOW_S, Staged, Timed, in_turn, mean, repeat

if TYPE_CHECKING:
    from joulemeter.bench import Plan, Tally
    from joulemeter.timeline import Timeline

GROUP = 32
"""Kernels drawn one by one that are timed in turn with each other: enough to find weights cold."""
GROUP_S = 3.0
_GROUP_BYTES = 1.5 * 2**30
_GROUP_SHARE = 0.05
"""A group takes no more than this part of a small budget."""
REFERENCE = Kernel(
    "conv",
    {"height": 56, "width": 56, "in_channels": 64, "out_channels": 64, "kernel_height": 3, "kernel_width": 3},
)
"""Timed with each group: what it takes says how fast the machine was just then."""
_FLUSH = 40
_Group = list[tuple[Kernel, Staged]]
_REST_S = 0.3
_READ_S = 0.06
_MOST_RESTS = 50
"""A meter that is not read for three seconds will not be."""


def _mode(kernel: Kernel, backend: str) -> AbstractContextManager[Any]:
    """Without gradients where PyTorch runs forward, as in inference."""
    import torch

    return torch.inference_mode(kernel.direction != "backward" and backend.startswith("torch"))


class Log:
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
        self.reference = rig.stage(REFERENCE) if plan.device == "cpu" else None

    def group(self, drawn: Iterable[tuple[Kernel, str]], tally: Tally, only: set[str] | None = None) -> None:
        """Times kernels, each with its backend, in turn with those of the same backend, as often and in the
        order given; keeps those whose key is among ``only`` (None: all)."""
        groups: dict[tuple[str, bool], _Group] = defaultdict(list)
        ready: dict[str, Staged | None] = {}
        held = 0.0
        for kernel, backend in drawn:
            key = f"{backend}/{kernel.key}"
            if key not in ready:
                ready[key] = self._staged(kernel, backend, tally)
                held += rig.held_bytes(kernel)
            staged = ready[key]
            if staged is not None:
                groups[backend, kernel.direction == "backward"].append((kernel, staged))
            if held > _GROUP_BYTES:
                self._measure_all(groups, tally, only)
                ready.clear()
                held = 0.0
        self._measure_all(groups, tally, only)

    def _measure_all(
        self, groups: dict[tuple[str, bool], _Group], tally: Tally, only: set[str] | None
    ) -> None:
        for (backend, _), group in groups.items():
            tally.kernels += self._measure(group, backend, only)
        groups.clear()

    def _staged(self, kernel: Kernel, backend: str, tally: Tally) -> Staged | None:
        """``kernel`` set up and launched once; what cannot run here is counted."""
        try:
            staged = rig.stage(kernel, backend, self.plan.device)
            if staged is None:
                tally.left_out[f"{kernel.family} on {backend}: no such kernel"] += 1
                return None
            with _mode(kernel, backend):
                staged.call()
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            tally.left_out[f"{kernel.family} {kernel.direction} on {backend}: {line[:120]}"] += 1
            return None
        return staged

    def _measure(self, group: _Group, backend: str, only: set[str] | None) -> int:
        """Times a group in rounds; how many records that made."""
        self._rested()
        reference = [] if self.reference is None else [self.reference]
        calls = [*reference, *(staged for _, staged in group)]
        with _mode(group[0][0], backend):
            timed = self._undisturbed(calls)
            places: dict[str, list[int]] = defaultdict(list)
            for i, (kernel, _) in enumerate(group):
                if only is None or f"{backend}/{kernel.key}" in only:
                    places[kernel.key].append(i)
            offset = len(reference)
            for at in places.values():
                kernel, staged = group[at[0]]
                whole = self._own_stretch(staged, mean([timed[i + offset] for i in at]))
                self._add_kernel(kernel, backend, whole, {"reference_s": timed[0].time_s} if offset else {})
        return len(places)

    def _undisturbed(self, calls: Sequence[Staged]) -> list[Timed]:
        """Rounds, once more where others took much of the machine meanwhile; the less disturbed."""
        tries: list[list[Timed]] = []
        while not tries or (tries[-1][0].taken > DISTURBED and len(tries) < 2):
            tries.append(self._rounds(calls))
        return min(tries, key=lambda each: math.inf if math.isnan(each[0].taken) else each[0].taken)

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

    def network(self, definition: networks.Definition, done: set[str], tally: Tally) -> None:
        """Times a whole network with PyTorch; then, in turn, its kernels that are not ``done`` yet."""
        from joulemeter.graphs import torch_export

        try:
            module, arguments = definition.build()
            read = torch_export.from_module(module, arguments, name=definition.name)
        except GraphError as error:
            tally.left_out[f"{definition.name}: {error.fact}"] += 1
            return
        keys = {f"{backend}/{kernel.key}" for backend in self.plan.backends
                for kernel in read.kernels if self._asked(kernel)}  # fmt: skip
        wanted = {key for key in keys if key not in done or "/view/" in key}
        done.update(wanted)
        made = [(kernel, backend) for backend in self.plan.backends for kernel in read.kernels]
        first = self._passes(module, arguments)
        if wanted:
            self.group(made, tally, wanted)
        self._network(definition, read, [first, self._passes(module, arguments)])
        tally.models += 1

    def _asked(self, kernel: Kernel) -> bool:
        return not self.plan.families or kernel.family in self.plan.families

    def _passes(self, module: Any, arguments: tuple[Any, ...]) -> Timed:
        """Whole passes of a network, taken again where others took much of the machine meanwhile."""
        import torch

        device = self.plan.device
        module, arguments = module.to(device), tuple(each.to(device) for each in arguments)
        self._rested()
        window_s = max(min(0.7, _GROUP_SHARE * self.plan.budget_s), self.window_s)
        with torch.inference_mode():
            tries: list[Timed] = []
            while not tries or (tries[-1].taken > DISTURBED and len(tries) < 3):
                tries.append(repeat(lambda: module(*arguments), window_s, 4.0, self.plan.clock))
        return min(tries, key=lambda each: math.inf if math.isnan(each.taken) else each.taken)

    def _network(self, definition: networks.Definition, read: Network, visits: Sequence[Timed]) -> None:
        """A record of a network that was visited before and after its kernels: the mean of both."""
        facts = {"kernels": composition(read), "unpriced": read.unpriced}
        family, timed = definition.name.rpartition("-")[0], mean(visits)
        self._add(self._record("model", family, "torch", timed, network=read, facts=facts), timed)

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

    def flush(self) -> None:
        """Reads the meters for whatever is waiting, and appends it to the data set."""
        if not self.waiting:
            return
        lines = self._read_until(max(timed.end_ns for _, timed in self.waiting))
        idle_w = _power_w(lines, *self.rest) if self.rest else math.nan
        now = self.stage.look()
        hot = None if now.throttled is None or self.throttled is None else now.throttled > self.throttled
        self.throttled = now.throttled
        made = [_with_energy(record, timed, lines, idle_w, self.stage) for record, timed in self.waiting]
        made = [replace(each, temperature_c=now.temperature_c, throttled=hot) for each in made]
        dataset.append(self.folder, made)
        self.waiting.clear()
        self.rest = None

    def _read_until(self, end_ns: int) -> list[Timeline]:
        """The readings, once every meter has been read past ``end_ns``; without, where one is silent."""
        for _ in range(_MOST_RESTS):
            self.stage.rest(_READ_S)
            lines = self.stage.timelines()
            if all(len(line.t_ns) and line.t_ns[-1] >= end_ns + (line.rail.lag_ns or 0) for line in lines):
                break
        return lines


def _power_w(lines: Sequence[Timeline], start_ns: int, end_ns: int) -> float:
    from joulemeter.reading import outermost

    outer = {rail.id for rail in outermost(tuple(line.rail for line in lines))}
    inside = [line for line in lines if line.rail.id in outer]
    joules = math.fsum(
        line.between(start_ns + (line.rail.lag_ns or 0), end_ns + (line.rail.lag_ns or 0)) for line in inside
    )
    return joules / ((end_ns - start_ns) / 1e9) if inside else math.nan


def origin(stage: Stage) -> Origin:
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
        record, origin=origin(stage), power_w=power_w, idle_power_w=idle_w, energy_j=power_w * timed.time_s,
        energy_low_j=power_w * low_s, energy_high_j=power_w * high_s, net_energy_j=net_w * timed.time_s,
        net_low_j=net_w * low_s, net_high_j=net_w * high_s,
        source=", ".join(sorted({rail.source for rail in rails})),
    )  # fmt: skip


def composition(network: Network) -> list[list[Any]]:
    """The kernels of ``network`` with how often each occurs, as plain values."""
    counted = Counter(kernel.key for kernel in network.kernels)
    by_key = {kernel.key: kernel for kernel in network.kernels}
    return [[by_key[key].to_json(), count] for key, count in counted.items()]
