"""A network into joules and seconds, with intervals and coverage.

The law: what has no price is named, lowers the coverage, and never counts as nothing in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import kernels
from joulemeter.composition import composed
from joulemeter.errors import GraphError
from joulemeter.kernel import Kernel, Work
from joulemeter.kernels import Operand
from joulemeter.ledger import number
from joulemeter.network import Network, Node, Rule, fold, fuse
from joulemeter.pricing import QUANTITIES, Calibration, Pricing, Quantity, amounts_of, estimates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joulemeter.models.predictor import Estimates

DEPLOYED = (".onnx", ".tflite", ".pt2", ".keras")
"""Files that are deployed: batch normalisation is folded in, and nothing runs in place."""

MOST_BYTES = 2.0**50
"""One kernel that reads and writes more is a mistake: a PiB is more than the memory of any machine."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 90 % interval; NaN where not known."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three numbers; null where not known."""
        return {"value": number(self.value), "low": number(self.low), "high": number(self.high)}


@dataclass(frozen=True, slots=True)
class Row:
    """Part of a network: a family of kernels or a module, with its share of the kernels' energy and time."""

    name: str
    launches: int
    energy_j: float
    time_s: float
    flops: float
    outside: int = 0
    """Launches outside the training domain."""
    pooled: int = 0
    """Launches of families never measured, priced by the model of all families."""


@dataclass(frozen=True, slots=True)
class Priced:
    """A network's price. ``flops_covered`` and ``bytes_covered`` are the priced shares; ``unpriced`` counts
    operators without a price. ``overhead_s`` is the part of the time that no kernel explains."""

    name: str
    device: str
    backend: str
    energy: Figure
    time: Figure
    power: Figure
    overhead_j: float
    overhead_s: float
    flops: float
    multiply_adds: Mapping[str, float]
    parameters: float
    flops_covered: float
    bytes_covered: float
    unpriced: Mapping[str, int]
    kernels: tuple[Row, ...]
    modules: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether something of the network has no price."""
        return bool(self.unpriced)

    def to_json(self) -> dict[str, Any]:
        """One plain object; null where not known."""
        figures = {key: getattr(self, key).to_json() for key in ("energy", "time", "power")}
        return {
            "schema": 1,
            "name": self.name,
            "origin": "predicted",
            "device": self.device,
            "backend": self.backend,
            "energy_j": figures["energy"],
            "time_s": figures["time"],
            "power_w": figures["power"],
            "overhead_j": number(self.overhead_j),
            "overhead_s": number(self.overhead_s),
            "flops": self.flops,
            "multiply_adds": dict(self.multiply_adds),
            "parameters": number(self.parameters),
            "partial": self.partial,
            "coverage": {"flops": self.flops_covered, "bytes": self.bytes_covered},
            "unpriced": dict(self.unpriced),
            "kernels": [_plain(row) for row in self.kernels],
            "modules": [_plain(row) for row in self.modules],
            "warnings": list(self.warnings),
        }


def _plain(row: Row) -> dict[str, Any]:
    return {key: number(value) if isinstance(value, float) else value for key, value in asdict(row).items()}


# ── pricing ──────────────────────────────────────────────────────────────────────────────────────────


def as_run(network: Network, rules: Sequence[Rule] = (), deployed: bool | None = None) -> Network:
    """``network`` as the backend runs it: folded where it is deployed (by its file's ending), then fused."""
    if deployed if deployed is not None else network.name.endswith(DEPLOYED):
        network = composed(_settled(fold(network)))
    return fuse(network, rules) if rules else network


def _settled(network: Network) -> Network:
    """``network`` without what only the framework it came from knows (views, what runs in place, how memory
    lies) and with the bias that every folded layer has."""
    nodes = []
    for node in network.nodes:
        kernel = node.kernel
        if kernel is not None:
            shape = {key: value for key, value in kernel.shape.items() if key not in ("in_place", "layout")}
            kernel = replace(kernel, shape={**shape, "bias": 1} if "bias" in shape else shape)
        nodes.append(replace(node, kernel=kernel))
    return replace(network, nodes=_without_views(nodes))


def _without_views(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes but views; whoever read a view reads what it was of."""
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        reads = tuple(same.get(name, name) for name in node.reads)
        if node.kernel is not None and node.kernel.family == "view" and reads:
            same.update(dict.fromkeys(node.writes, reads[0]))
        else:
            kept.append(replace(node, reads=reads))
    return tuple(kept)


def price(network: Network, pricing: Pricing, deployed: bool | None = None) -> Priced:
    """The energy and time of one pass of ``network``; operators without a price are named and lower the
    coverage.
    """
    return price_all([network], pricing, deployed)[0]


def price_all(networks: Sequence[Network], pricing: Pricing, deployed: bool | None = None) -> list[Priced]:
    """Many networks at once: their kernels are priced in one call. Raises GraphError for absurd sizes."""
    ready = [as_run(each, pricing.rules, deployed) for each in networks]
    flat = [kernel for network in ready for kernel in network.kernels]
    works = [kernels.work(kernel) for kernel in flat]
    _sane(ready, works)
    prices = {q: estimates(pricing.predictor, flat, q, pricing.calibration(q).view) for q in QUANTITIES}
    made, start = [], 0
    for network in ready:
        end = start + len(network.kernels)
        mine = {q: _slice(each, start, end) for q, each in prices.items()}
        made.append(_priced(network, works[start:end], mine, pricing))
        start = end
    return made


def _sane(networks: Sequence[Network], works: Sequence[Work]) -> None:
    """Raises GraphError where a kernel moves more than any memory holds: a size is mistaken, and a price
    would be nonsense.
    """
    names = [(network.name, node.name) for network in networks for node in network.nodes if node.kernel]
    for (network, name), work in zip(names, works, strict=True):
        if work.bytes > MOST_BYTES:
            raise GraphError(
                f"{network}: '{name}' moves {work.bytes:.1e} bytes, more than any memory holds",
                "check the sizes of its inputs",
            )


@dataclass(frozen=True, slots=True)
class _Prices:
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    own: NDArray[np.bool_]
    outside: tuple[tuple[str, ...], ...]


def _slice(each: Estimates, start: int, end: int) -> _Prices:
    return _Prices(
        each.value[start:end],
        each.low[start:end],
        each.high[start:end],
        each.own[start:end],
        each.outside[start:end],
    )


def _priced(
    network: Network, works: Sequence[Work], prices: Mapping[Quantity, _Prices], pricing: Pricing
) -> Priced:
    made = network.kernels
    unknown = [i for i in range(len(made)) if math.isnan(prices["energy_j"].value[i])]
    unpriced = {**network.unpriced}
    for i in unknown:
        unpriced[made[i].family] = unpriced.get(made[i].family, 0) + 1
    energy, extra_j = _total(made, prices["energy_j"], pricing.calibration("energy_j"))
    time, extra_s = _total(made, prices["time_s"], pricing.calibration("time_s"))
    flops_covered, bytes_covered = coverage(network, works, set(unknown))
    nodes = [node for node in network.nodes if node.kernel is not None]
    macs: dict[str, float] = {}
    for kernel in made:
        macs[kernel.family] = macs.get(kernel.family, 0.0) + kernels.multiply_adds(kernel)
    return Priced(
        name=network.name,
        device=pricing.predictor.device,
        backend=pricing.predictor.backend,
        energy=energy,
        time=time,
        power=_power(energy, time),
        overhead_j=extra_j,
        overhead_s=extra_s,
        flops=math.fsum(work.flops for work in works),
        multiply_adds={name: value for name, value in macs.items() if value},
        parameters=network.parameters,
        flops_covered=flops_covered,
        bytes_covered=bytes_covered,
        unpriced=unpriced,
        kernels=_rows([kernel.family for kernel in made], works, prices),
        modules=_rows([_place(node) for node in nodes], works, prices),
        warnings=tuple(_warnings(network, made, prices["energy_j"])),
    )


def _total(made: Sequence[Kernel], prices: _Prices, calibration: Calibration) -> tuple[Figure, float]:
    """The total with its interval, and the part of it beyond the kernels'."""
    if not made or np.isnan(prices.value).all():
        return Figure(math.nan, math.nan, math.nan), math.nan
    value = np.nan_to_num(prices.value)
    table = np.array([amounts_of([(kernel, 1.0) for kernel in made], value)])
    total = float(calibration.total(table)[0])
    extra = float(table[0, 2:4] @ np.array(calibration.costs[2:4]))
    if math.isnan(calibration.spread):  # as if all kernels erred alike
        scale = total / max(value.sum(), 1e-300)
        return Figure(
            total, float(np.nansum(prices.low)) * scale, float(np.nansum(prices.high)) * scale
        ), extra
    return Figure(total, total * math.exp(-calibration.spread), total * math.exp(calibration.spread)), extra


def _power(energy: Figure, time: Figure) -> Figure:
    """Energy over time. Both err alike where the kernels are mistaken, so that the wider relative interval
    holds.
    """
    if not time.value > 0:
        return Figure(math.nan, math.nan, math.nan)
    value = energy.value / time.value
    reach = max(abs(math.log(max(f.high, 1e-300) / max(f.value, 1e-300))) for f in (energy, time))
    return Figure(value, value * math.exp(-reach), value * math.exp(reach))


def coverage(network: Network, works: Sequence[Work], without: set[int]) -> tuple[float, float]:
    """The shares of FLOPs and bytes that have a price.

    Nobody knows the FLOPs of an operator without a formula: it is taken to do as many for each byte as the
    rest of the network does on average, so that it lowers the coverage by more than nothing.
    """
    priced = [work for i, work in enumerate(works) if i not in without]
    flops, moved = math.fsum(w.flops for w in priced), math.fsum(w.bytes for w in priced)
    all_flops, all_bytes = math.fsum(w.flops for w in works), math.fsum(w.bytes for w in works)
    known = [node.bytes for node in network.nodes if node.kernel is None and not math.isnan(node.bytes)]
    blind = sum(1 for node in network.nodes if node.kernel is None and math.isnan(node.bytes))
    # One whose shapes are not known either counts as a usual node of this network.
    usual = all_bytes / max(len(works), 1)
    lost = math.fsum(known) + blind * usual
    lost_flops = lost * (all_flops / all_bytes if all_bytes > 0 else 1.0)
    return _share(flops, all_flops + lost_flops), _share(moved, all_bytes + lost)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _place(node: Node) -> str:
    """The module a node is in, to three levels."""
    return ".".join(node.module.split(".")[:3]) if node.module else "(top)"


def _rows(names: Sequence[str], works: Sequence[Work], prices: Mapping[Quantity, _Prices]) -> tuple[Row, ...]:
    """One row a name, the dearest first."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    energy, time = prices["energy_j"], prices["time_s"]
    rows = [
        Row(
            name,
            len(places),
            float(energy.value[places].sum()),
            float(time.value[places].sum()),
            math.fsum(works[i].flops for i in places),
            sum(1 for i in places if energy.outside[i]),
            int((~energy.own[places]).sum()),
        )
        for name, places in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -np.nan_to_num(row.energy_j)))


def _warnings(network: Network, made: Sequence[Kernel], prices: _Prices) -> list[str]:
    total = max(float(np.nansum(prices.value)), 1e-300)
    found = list(network.notes)
    beyond = [i for i, names in enumerate(prices.outside) if names]
    share = float(np.nansum(prices.value[beyond])) / total if beyond else 0.0
    if share > 0.01:
        worst = max(beyond, key=lambda i: float(np.nan_to_num(prices.value[i])))
        what = ", ".join(name.removeprefix("dim ") for name in prices.outside[worst][:3])
        found.append(
            f"{len(beyond)} of {len(made)} kernels ({share:.0%} of the energy) lie outside what was "
            f"measured, such as a {made[worst].family} in {what}: the interval may be too narrow"
        )
    strange = sorted(
        {k.family for k, own in zip(made, prices.own, strict=True) if not own and k.family != "view"}
    )
    if strange:
        found.append(f"never measured, priced by the model of all families: {', '.join(strange)}")
    return found


def elsewhere(priced: Priced) -> Priced:
    """``priced``, with the warning that its predictor is of no device of this machine."""
    device = priced.device or "an unnamed device"
    warning = f"the predictor is of {device}, which is not in this machine: the price is for that device"
    return replace(priced, warnings=(warning, *priced.warnings))


# ── a training step ──────────────────────────────────────────────────────────────────────────────────


def _learnt(kernel: Kernel) -> Sequence[Operand]:
    """The weights that an optimizer steps: the first two of a batch norm are its running statistics."""
    weights = kernels.form(kernel).weights
    return weights[2:] if kernel.family in ("bn", "bn-train") else weights


def training_step(network: Network, optimizer: str = "adam") -> Network:
    """``network`` with the backward pass of every kernel and the optimizer's step.

    Weights of one kernel are stepped together; operators without a kernel have no backward either, and stay
    unpriced. Whole numbers have no gradient, running statistics no step.
    """
    from joulemeter.kernels import backward

    known = kernels.families()
    back = [
        replace(node, kernel=backward.of(node.kernel), name=f"{node.name} backward", reads=(), writes=())
        for node in reversed(network.nodes)
        if node.kernel is not None
        and f"{node.kernel.family}-backward" in known
        and not node.kernel.dtype.startswith(("int", "uint", "bool"))
    ]
    steps = [
        Node(
            Kernel(optimizer, {"elements": operand.elements}, direction="step"),
            optimizer,
            node.name,
            node.module,
        )
        for node in network.nodes
        if node.kernel is not None
        for operand in _learnt(node.kernel)
    ]
    return replace(network, nodes=(*network.nodes, *back, *steps))
