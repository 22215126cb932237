"""The spans of a run as a tree of calls, and a site's joules shared among the places it was called from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import Ledger
from joulemeter.span import Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CallTree:
    """A node for every distinct chain of sites; a parent stands before its children.

    ``site`` int64 (n,) ids of sites; ``parent`` int64 (n,) node numbers, −1 for a root; ``calls`` int64 (n,);
    ``inclusive_s`` and ``exclusive_s`` float64 (n,), the second less what children on the same lane took.
    """

    site: NDArray[np.int64]
    parent: NDArray[np.int64]
    calls: NDArray[np.int64]
    inclusive_s: NDArray[np.float64]
    exclusive_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.site)

    def path(self, node: int) -> list[int]:
        """The sites from the root to ``node``."""
        chain = []
        while node >= 0:
            chain.append(int(self.site[node]))
            node = int(self.parent[node])
        return chain[::-1]

    def summed(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """A quantity of each node with that of everything below it."""
        whole = own.astype(np.float64).copy()
        for node in range(len(self) - 1, -1, -1):
            if self.parent[node] >= 0:
                whole[self.parent[node]] += whole[node]
        return whole


def of(spans: Spans) -> CallTree:
    """The tree of ``spans``, in time proportional to their number and to how deep they nest."""
    depth = depths(spans)
    parent = np.asarray(spans.parent, np.int64)
    sites = np.asarray(spans.site, np.int64)
    node = np.full(len(spans), -1, np.int64)
    node_site: list[NDArray[np.int64]] = []
    node_parent: list[NDArray[np.int64]] = []
    made = 0
    for level in range(int(depth.max(initial=-1)) + 1):
        mine = np.flatnonzero(depth == level)
        above = np.where(parent[mine] >= 0, node[parent[mine]], -1)
        # One number for a pair: a chain is told from its parent's node and its own site.
        width = int(sites[mine].max()) + 1
        pairs, which = np.unique((above + 1) * width + sites[mine], return_inverse=True)
        node[mine] = made + which
        node_site.append(pairs % width)
        node_parent.append(pairs // width - 1)
        made += len(pairs)
    return _with_times(spans, node, node_site, node_parent)


def depths(spans: Spans) -> NDArray[np.int32]:
    """How many spans each lies in, by ``parent``: int32 (n,), 0 for a root."""
    parent = np.asarray(spans.parent, np.int64)
    depth = np.zeros(len(parent), np.int32)
    inside = np.flatnonzero(parent >= 0)
    above = parent[inside]
    while len(inside):
        depth[inside] += 1
        above = parent[above]
        inside, above = inside[above >= 0], above[above >= 0]
        if depth.max() > len(parent):
            raise ValueError("the parents of the spans go round in a circle")
    return depth


def _with_times(
    spans: Spans, node: NDArray[np.int64], site: list[NDArray[np.int64]], parent: list[NDArray[np.int64]]
) -> CallTree:
    nothing = np.empty(0, np.int64)
    count = sum(len(part) for part in site)
    took_s = (spans.end_ns - spans.start_ns) / 1e9
    nested = np.flatnonzero(spans.parent >= 0)
    # A kernel on a device's lane runs beside the call that launched it: that call's own time is not less.
    nested = nested[spans.lane[nested] == spans.lane[spans.parent[nested]]]
    within_s = np.bincount(spans.parent[nested], weights=took_s[nested], minlength=len(spans))
    return CallTree(
        np.concatenate([nothing, *site]),
        np.concatenate([nothing, *parent]),
        np.bincount(node, minlength=count),
        np.bincount(node, weights=took_s, minlength=count).astype(np.float64),
        np.bincount(node, weights=np.maximum(0.0, took_s - within_s), minlength=count).astype(np.float64),
    )


def energy_j(tree: CallTree, ledger: Ledger, rail: int) -> NDArray[np.float64]:
    """Exclusive joules of each node on ``rail``: float64 (n,), NaN where the site's are not known.

    A site's energy is shared among its nodes by their own time; by calls where it has none. The nodes of a
    site add up to the site.
    """
    of_site = {
        site.site.id: entry.exclusive.energy_j
        for site in ledger.sites
        for entry in site.rails
        if entry.rail == rail
    }
    sites, which = np.unique(tree.site, return_inverse=True)
    time = np.bincount(which, weights=tree.exclusive_s, minlength=len(sites))
    calls = np.bincount(which, weights=tree.calls, minlength=len(sites))
    joules = np.array([of_site.get(int(site), np.nan) for site in sites])
    by_time = np.divide(tree.exclusive_s, time[which], out=np.zeros(len(tree)), where=time[which] > 0)
    by_calls = np.divide(tree.calls, calls[which], out=np.zeros(len(tree)), where=calls[which] > 0)
    return joules[which] * np.where(time[which] > 0, by_time, by_calls)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A tree's heaviest nodes; what was cut hangs below its nearest kept caller as one node of site −1."""

    site: NDArray[np.int64]
    parent: NDArray[np.int64]
    place: NDArray[np.int64]
    """For every node of the whole tree, the node here that stands for it."""

    def gathered(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        """A quantity of the whole tree's nodes, added up here; NaN where all that it stands for is NaN."""
        known = ~np.isnan(own)
        sums = np.bincount(self.place[known], weights=own[known], minlength=len(self.site))
        some = np.bincount(self.place[known], minlength=len(self.site)) > 0
        return np.where(some, sums, np.nan)


def pruned(tree: CallTree, owns: list[NDArray[np.float64]], most: int) -> Pruned:
    """At most about ``most`` nodes, those with the largest share of any of the quantities ``owns``.

    A caller weighs as much as all below it, so callers are kept before what they call.
    """
    if len(tree) <= most:
        return Pruned(tree.site, tree.parent, np.arange(len(tree)))
    sums = [tree.summed(np.maximum(own, 0.0)) for own in owns]
    weight = np.max([each / max(float(each.max()), 1e-300) for each in sums], axis=0)
    keep = np.zeros(len(tree), bool)
    keep[np.argsort(-weight, kind="stable")[:most]] = True
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    parents, sites = tree.parent[keep], tree.site[keep]
    place = number.copy()
    rest: dict[int, int] = {}
    made = int(keep.sum())
    for node in np.flatnonzero(~keep):
        above = int(tree.parent[node])
        if above >= 0 and not keep[above]:
            place[node] = place[above]
        else:
            caller = int(number[above]) if above >= 0 else -1
            place[node] = rest.setdefault(caller, made + len(rest))
    site = np.concatenate([sites, np.full(len(rest), -1, np.int64)])
    above_kept = np.where(parents >= 0, number[parents], -1)
    return Pruned(site, np.concatenate([above_kept, np.array(list(rest), np.int64)]), place)
