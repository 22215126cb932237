"""The pytest plugin: the energy of tests, against limits and baselines.

    @pytest.mark.energy(max="5 J", rel=0.05)     meters the test; fails where it surely takes more
    def test_training(): …

    def test_two_models(energy):                  meters parts of a test
        with energy("small"): small()
        with energy("large"): large()
        assert energy["small"].high_j < energy["large"].low_j

``--energy-save`` writes what was metered to a baseline file, ``--energy-compare`` holds it against one. A
verdict needs the whole interval: a test fails when even the low end lies above the limit.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from joulemeter.ledger import Energy

DEFAULT_BASELINE = ".joulemeter/energy.json"
REL = 0.05
"""How much more than its baseline a marked test may take, where its mark says nothing."""
_REFUSAL = (
    "joulemeter: tests run in parallel share one meter, so none can be metered. Try: -n 0 (or -p no:xdist)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and the place of the baseline."""
    group = parser.getgroup("energy", "energy of tests (joulemeter)")
    for name, what in (("save", "write the energies to a baseline"), ("compare", "compare with a baseline")):
        group.addoption(
            f"--energy-{name}",
            nargs="?",
            const=DEFAULT_BASELINE,
            metavar="FILE",
            help=f"{what} (default {DEFAULT_BASELINE})",
        )
    group.addoption(
        "--energy-source",
        metavar="NAME,…",
        help="meters to read; default: all that answer, else the estimate",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker and, where asked to, reads the baseline."""
    config.addinivalue_line(
        "markers",
        "energy(max=None, rel=0.05): meter the test; fail above max ('5 J') or above its baseline by rel",
    )
    config.pluginmanager.register(Energies(config), "joulemeter-energies")


class Energies:
    """What a session metered, by test (and by part of a test)."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.metered: dict[str, tuple[Energy, str]] = {}
        self.verdicts: dict[str, str] = {}
        place = config.getoption("--energy-compare")
        self._baseline = {} if place is None else _read_baseline(Path(config.rootpath, place))

    # ── metering ─────────────────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Meters a marked test, and judges it when it has passed."""
        mark = item.get_closest_marker("energy")
        if mark is None:
            return (yield)
        _refuse_in_parallel()
        with self.meter(item.nodeid):
            outcome = yield
        rel = float(mark.kwargs.get("rel", REL))
        self._limit(item.nodeid, mark.kwargs.get("max"))
        for name in tuple(self.metered):
            if name == item.nodeid or name.startswith(f"{item.nodeid}["):
                self._compare(name, rel)
        return outcome

    @contextmanager
    def meter(self, name: str) -> Iterator[None]:
        """Meters a block under ``name``."""
        from joulemeter.errors import JoulemeterError
        from joulemeter.meter import Meter
        from joulemeter.sources import split_specs

        named = self._config.getoption("--energy-source")
        fault = ""
        with ExitStack() as stack:
            try:
                meter = stack.enter_context(Meter(sources=None if named is None else split_specs(named)))
            except JoulemeterError as error:
                fault = f"joulemeter: {error}"
            if fault:
                pytest.fail(fault, pytrace=False)
            yield
        origins = sorted({rail.origin for rail in meter.run.rails})
        self.metered[name] = (meter.energy, ", ".join(origins))

    def _limit(self, name: str, limit: object) -> None:
        from joulemeter.units import joules, parse_energy_j

        if limit is None:
            return
        energy, origin = self.metered[name]
        most_j = parse_energy_j(str(limit))
        if energy.low_j > most_j:
            pytest.fail(
                f"took {joules(energy.energy_j)} ({origin}; at least {joules(energy.low_j)}), "
                f"more than {limit}",
                pytrace=False,
            )
        if not energy.high_j <= most_j:
            self.verdicts[name] = f"may be above {limit}: the interval cannot tell"

    def compare_part(self, name: str) -> None:
        """Says how a part of a test that is not marked stands to its baseline."""
        self._compare(name, math.inf)

    def _compare(self, name: str, rel: float) -> None:
        from joulemeter.comparison import difference

        before = self._baseline.get(name)
        if before is None:
            return
        energy, origin = self.metered[name]
        if before["origin"] != origin:
            self._say(name, f"baseline is {before['origin']}, this is {origin}: not compared")
            return
        change = difference(_energy(before), energy)
        self._say(name, change.verdict)
        if change.is_above(rel):
            low, high = 100 * change.relative.low, 100 * change.relative.high
            more = f"{low:.1f} to {high:.1f} %" if math.isfinite(high) else f"at least {low:.1f} %"
            pytest.fail(
                f"{name} takes {more} more than its baseline; {100 * rel:g} % is allowed", pytrace=False
            )

    def _say(self, name: str, verdict: str) -> None:
        self.verdicts[name] = "; ".join(each for each in (self.verdicts.get(name), verdict) if each)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """A line a test: energy, interval, origin, verdict."""
        from joulemeter.units import joules

        if not self.metered:
            return
        terminalreporter.section("energy")
        for name, (energy, origin) in self.metered.items():
            figures = (
                f"{joules(energy.energy_j):>9}  ({joules(energy.low_j)} – {joules(energy.high_j)})  {origin}"
            )
            terminalreporter.line(f"{figures}  {name}  {self.verdicts.get(name, '')}".rstrip())

    def pytest_sessionfinish(self) -> None:
        """Saves the baseline, keeping what it says of tests that did not run."""
        place = self._config.getoption("--energy-save")
        if place is None or not self.metered:
            return
        path = Path(self._config.rootpath, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        old = _read_baseline(path) if path.exists() else {}
        new = {
            name: {**energy.to_json(), "origin": origin} for name, (energy, origin) in self.metered.items()
        }
        partial = path.with_suffix(".partial")
        partial.write_text(
            json.dumps({"schema": 1, "tests": {**old, **new}}, indent=1) + "\n", encoding="utf-8"
        )
        partial.replace(path)


def _read_baseline(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document["tests"])
    except FileNotFoundError:
        raise pytest.UsageError(
            f"{path}: there is no such energy baseline. Try: --energy-save first"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise pytest.UsageError(
            f"{path}: is not an energy baseline ({error}). Try: remove it, then --energy-save"
        ) from None


def _energy(entry: Mapping[str, Any]) -> Energy:
    from joulemeter.ledger import Energy

    return Energy(*(float("nan") if entry[k] is None else entry[k] for k in ("energy_j", "low_j", "high_j")))


def _refuse_in_parallel() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip(_REFUSAL)


class Parts:
    """The ``energy`` fixture: ``with energy("name"):`` meters a part, ``energy["name"]`` is its Energy."""

    def __init__(self, energies: Energies, test: str, marked: bool) -> None:
        self._energies = energies
        self._test = test
        self._marked = marked

    @contextmanager
    def __call__(self, name: str = "block") -> Iterator[None]:
        part = f"{self._test}[{name}]"
        with self._energies.meter(part):
            yield
        if not self._marked:
            self._energies.compare_part(part)

    def __getitem__(self, name: str) -> Energy:
        return self._energies.metered[f"{self._test}[{name}]"][0]


@pytest.fixture
def energy(request: pytest.FixtureRequest) -> Parts:
    """Meters parts of a test: ``with energy("forward"): …``, then ``energy["forward"].energy_j``."""
    _refuse_in_parallel()
    energies: Energies = request.config.pluginmanager.getplugin("joulemeter-energies")
    return Parts(energies, request.node.nodeid, request.node.get_closest_marker("energy") is not None)
