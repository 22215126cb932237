"""Rail (one metered supply), Reading, and what a Source promises."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

from joulemeter.errors import RunFolderError

Origin = Literal["measured", "estimated", "predicted", "replayed", "simulated"]
Kind = Literal["counter", "gauge"]

_LAYOUT = "what a run folder holds: docs/architecture.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """One metered supply, and how its meter sees it.

    A ``counter`` reads cumulative joules and wraps at ``range_j`` (None: never). A ``gauge`` reads
    watts; a sample stands for the ``period_ns`` *before* its stamp. Rails nest: ``inside`` is the id
    of the rail that contains this one's energy, and totals add up the outermost rails only.
    """

    id: int
    name: str
    kind: Kind
    origin: Origin
    period_ns: int
    """How often the meter refreshes or is read, whichever is slower."""
    lag_ns: int | None = 0
    """How long after the energy was spent it shows in a reading; None: not known, estimate it."""
    range_j: float | None = None
    """A counter's wrap range in joules."""
    inside: int | None = None
    """The id of the rail that contains this one; None for an outermost rail."""
    source: str = ""
    """The source that reads it: a file name of ``sources/``."""
    window_ns: int | None = None
    """How long the meter averages over before a stamp; None: not known (a counter: its period)."""
    relative_error: float = 0.0
    """Half width of the 95 % interval of the meter's gain, as a fraction of the reading."""
    note: str = ""
    """Where the figures come from, in words for the reader."""
    host: str = ""
    """The machine it is of, where a run holds several; empty: the run's own."""

    def to_json(self) -> dict[str, Any]:
        """A plain object for ``run.json.rails``."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Rail":
        """A rail out of ``run.json``; keys this version does not know are left alone."""
        known = {field.name for field in fields(Rail)}
        try:
            rail = Rail(**{key: value for key, value in data.items() if key in known})
        except TypeError as error:
            raise RunFolderError(f"run.json: a rail lacks a key ({error})", _LAYOUT) from error
        if rail.kind not in get_args(Kind) or rail.origin not in get_args(Origin):
            raise RunFolderError(
                f"run.json: rail '{rail.name}' has kind '{rail.kind}' and origin '{rail.origin}'", _LAYOUT
            )
        return rail


class Reading(NamedTuple):
    """One value of one rail: joules of a counter, watts of a gauge; NaN where the meter did not answer."""

    rail: int
    t_ns: int
    value: float


class Polled(NamedTuple):
    """What a source read by itself: when the next round is due, rounds, readings that failed, and readings
    that could not be written."""

    due_ns: int
    reads: int
    failed: int
    lost: int


class Source(Protocol):
    """One meter. ``sources/<name>.py`` offers ``open(argument)``, which returns one or raises
    SourceUnavailable with the reason and the remedy; ``argument`` is what stands after the colon
    in ``--source name:argument`` (empty: the machine's own)."""

    @property
    def spec(self) -> str:
        """``name:argument``: enough for another process to open the same source."""

    @property
    def rails(self) -> tuple[Rail, ...]:
        """The rails it reads, with ids from 0; whoever runs several sources renumbers them."""

    def read(self) -> list[Reading]:
        """A reading of every rail, stamped on ``time.monotonic_ns``.

        A rail that did not answer reads NaN: a gap, never zero. Rails with nothing new may be left out.
        """

    # A source may also offer ``poll(file, first_rail, due_ns, period_ns, stop) -> Polled``, or None: it
    # appends records of rawfiles.READING to ``file`` by itself, a round each ``period_ns`` from ``due_ns``
    # on, until it wants a ``read`` again or ``stop[0]`` is set.

    def close(self) -> None:
        """Gives back what it holds. Calling it twice does no harm."""


def renumbered(rail: Rail, first: int) -> Rail:
    """``rail`` with ids counted from ``first``, as when several sources are read side by side."""
    data = rail.to_json()
    inside = cast("int | None", data.pop("inside"))
    return Rail(**{**data, "id": rail.id + first}, inside=None if inside is None else inside + first)


def outermost(rails: tuple[Rail, ...]) -> tuple[Rail, ...]:
    """The rails that lie inside no other rail present: their energies add up to the total."""
    present = {rail.id for rail in rails}
    return tuple(rail for rail in rails if rail.inside not in present)


def rank_of(environment: Mapping[str, str]) -> dict[str, int] | None:
    """Which of several processes that train together this is, by torchrun's variables; None for one alone.

    ``rank``, ``local_rank``, ``world_size``, and ``restart``: how often its launcher began anew.
    """
    names = {"rank": "RANK", "local_rank": "LOCAL_RANK", "world_size": "WORLD_SIZE"}
    names["restart"] = "TORCHELASTIC_RESTART_COUNT"
    found = {key: environment.get(name, "") for key, name in names.items()}
    numbers = {key: int(value) if value.isdigit() else 0 for key, value in found.items()}
    return numbers if found["rank"].isdigit() and numbers["world_size"] > 1 else None
