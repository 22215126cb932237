"""What a backend really fuses: pairs of kernels timed apart and together, decided by a test of
significance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from joulemeter import kernels
from joulemeter.kernel import Kernel
from joulemeter.network import Rule
from joulemeter.rig import rig
from joulemeter.timing import Call

PAIRS: tuple[Rule, ...] = (
    ("conv", "relu", "conv-relu"),
    ("dwconv", "relu", "dwconv-relu"),
    ("conv", "hswish", "conv-hswish"),
    ("conv", "silu", "conv-silu"),
    ("conv", "add", "conv-add"),
    ("conv-add", "relu", "conv-add-relu"),
    ("fc", "relu", "fc-relu"),
    ("fc", "gelu", "fc-gelu"),
    ("bn", "relu", "bn-relu"),
    ("add", "relu", "add-relu"),
)
SIGNIFICANCE = 0.01
SHAPES = 5
"""How many shapes a pair is tried at; the test is over shapes, not over repeats of one."""


@dataclass(frozen=True, slots=True)
class Tested:
    """One pair: the share of the second kernel's time that running both together saves, and how often
    chance does as well.
    """

    first: str
    second: str
    fused: str
    saving: float
    p: float
    shapes: int

    @property
    def holds(self) -> bool:
        """Whether the backend fuses the pair."""
        return self.p < SIGNIFICANCE and self.saving > 0

    @property
    def rule(self) -> Rule:
        """The pair as a rule for ``network.fuse``."""
        return self.first, self.second, self.fused

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return asdict(self)


def rules(tested: Sequence[Tested]) -> list[Rule]:
    """The rules among ``tested`` that hold."""
    return [each.rule for each in tested if each.holds]


def learn(backend: str, device: str, budget_s: float, seed: int = 0) -> list[Tested]:
    """Every pair tried on ``backend`` within about ``budget_s`` seconds; none for PyTorch, which runs one
    by one.
    """
    if backend == "torch":
        return []
    rng = np.random.default_rng(seed)
    each_s = budget_s / len(PAIRS)
    return [_tried(pair, backend, device, each_s, rng) for pair in PAIRS]


def _tried(pair: Rule, backend: str, device: str, budget_s: float, rng: np.random.Generator) -> Tested:
    first, second, fused = pair
    savings: list[float] = []
    end = time.monotonic() + budget_s
    while len(savings) < SHAPES and (time.monotonic() < end or len(savings) < 3):
        together = kernels.family(fused).sample(fused, rng)
        alone = Kernel(first, together.shape, together.dtype, together.batch)
        after = _second(second, kernels.form(together).results[0].elements)
        calls = [rig(each, backend, device) for each in (alone, after, together, _nothing())]
        times = _interleaved([each for each in calls if each is not None])
        if len(times) == 4:
            savings.append(saving(*times))
    return decided(pair, savings)


def saving(first_s: float, second_s: float, together_s: float, call_s: float) -> float:
    """The share of the second kernel's own time that is saved; ``call_s`` is what any call costs, which
    two save once.
    """
    own = max(second_s - call_s, 1e-9)
    return (first_s + second_s - call_s - together_s) / own


def decided(pair: Rule, savings: Sequence[float]) -> Tested:
    """A one-sided t-test over shapes that the saving is more than nothing; fewer than three shapes decide
    nothing.
    """
    first, second, fused = pair
    if len(savings) < 3:
        return Tested(first, second, fused, float("nan"), 1.0, len(savings))
    # The median of ratios is what is reported; ratios far off (a second kernel of no time) must not decide.
    kept = np.clip(savings, -2.0, 2.0)
    p = float(stats.ttest_1samp(kept, 0.0, alternative="greater").pvalue) if np.ptp(kept) > 0 else 1.0
    return Tested(first, second, fused, float(np.median(kept)), p, len(savings))


def _second(family: str, elements: int) -> Kernel:
    return Kernel(family, {"elements": elements})


def _nothing() -> Kernel:
    return Kernel("relu", {"elements": 1})


def _interleaved(calls: Sequence[Call], rounds: int = 15) -> list[float]:
    """The median time of each call, all taken in turn so that a busy moment hits them alike."""
    taken = np.empty((rounds, len(calls)))
    for call in calls:
        call()
    for i in range(rounds):
        for j, call in enumerate(calls):
            start = time.perf_counter()
            call()
            taken[i, j] = time.perf_counter() - start
    return [float(each) for each in np.median(taken, axis=0)]
