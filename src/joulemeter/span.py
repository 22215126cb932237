"""Site (a place that spends energy), Spans (when it ran), and what a Tracer promises."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

SiteKind = Literal["run", "call", "operator", "module", "kernel", "span"]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a program that spends energy: ``torch.nn.functional.linear`` at ``train.py:42``."""

    id: int
    name: str
    kind: SiteKind = "call"
    file: str = ""
    line: int = 0
    column: int = 0
    function: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Distributions of the described arguments (shapes, dtypes, bytes); empty where none were seen."""

    def to_json(self) -> dict[str, Any]:
        """A plain object for ``run.json.sites``."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Site:
        """A site out of ``run.json``; unknown keys are left alone, null places become empty ones."""
        known = {each.name for each in fields(Site)}
        return Site(**{key: value for key, value in data.items() if key in known and value is not None})


@dataclass(frozen=True, slots=True)
class Spans:
    """When sites ran: five columns of one length, a row a span.

    ``site`` int32, ``lane`` int32 (a thread, task or device stream), ``start_ns`` and ``end_ns`` int64,
    ``parent`` int64 (a row number, −1 for none). Rows need no order. On one lane spans nest.
    """

    site: NDArray[Any]
    lane: NDArray[Any]
    start_ns: NDArray[Any]
    end_ns: NDArray[Any]
    parent: NDArray[Any]

    def __len__(self) -> int:
        return len(self.site)

    def only(self, chosen: NDArray[Any]) -> Spans:
        """The ``chosen`` rows, bool (n,); parents are rows of what is left, −1 where they are not."""
        import numpy as np

        place = np.where(chosen, np.cumsum(chosen) - 1, -1)
        parent = self.parent[chosen]
        parent = np.where(parent < 0, -1, place[parent])
        return Spans(self.site[chosen], self.lane[chosen], self.start_ns[chosen], self.end_ns[chosen], parent)

    @staticmethod
    def empty() -> Spans:
        """No spans at all."""
        import numpy as np

        return Spans(*(np.empty(0, dtype) for dtype in (np.int32, np.int32, np.int64, np.int64, np.int64)))


class SpanSink(Protocol):
    """What a tracer writes to: the recorder's promise. Enter and exit nest within one thread."""

    def site(
        self, name: str, kind: SiteKind, file: str = "", line: int = 0, column: int = 0, function: str = ""
    ) -> int:
        """The id of this site; the same arguments give the same id."""

    def enter(self, site: int) -> None:
        """The site starts to run on the calling thread, now."""

    def exit(self) -> None:
        """The innermost open span of the calling thread ends, now."""

    def add(self, lane: str, site: int, start_ns: int, end_ns: int, parent_site: int = -1) -> None:
        """A span seen by someone else (a device's own clock, already moved onto ``monotonic_ns``)."""

    def describe(self, site: int, arguments: dict[str, Any]) -> None:
        """Sets the argument distributions of a site."""


class BulkSink(SpanSink, Protocol):
    """What a tracer writes to that collects its spans in bulk and long after they ran."""

    def add_many(self, lane: str, spans: NDArray[Any]) -> None:
        """Spans seen by someone else, int64 (n, 4): site, start_ns, end_ns, parent site or −1."""

    def callers_at(self, lane: str, t_ns: NDArray[Any]) -> NDArray[Any]:
        """The innermost call site that was open on a lane at each moment, −1 for none; int64 (n,).

        Moments lie no further back than a few seconds before the lane's previous question.
        """

    def site_at(self, caller: int, name: str, kind: SiteKind) -> int:
        """The id of a site of that name where ``caller`` stands in the source; −1: nowhere known."""


class Tracer(Protocol):
    """One way to see what a program does: ``frameworks/<name>.py`` offers one."""

    def start(self, sink: BulkSink) -> None:
        """Begins to write spans to ``sink``; one that writes as they happen needs a SpanSink."""

    def stop(self) -> None:
        """Stops, and leaves the program as it was."""
