"""Joulemeter and its peers on one calibrated machine: python benchmarks/peers.py [--workdir DIR] [-o FILE]

In a mount namespace of its own (``unshare -m``, needs root) a powercap tree lies over /sys/class/powercap, and
a writer moves its counters every millisecond as a machine of known power would. Each tool, in its own
virtual environment, meters the same process through the same loads and the same faults. The truth is the integral of
the known power over the stretch between the two moments that the metered process itself noted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from powercap_machine import (
    CONTROL,
    COUNTERS,
    LATE,
    SCENARIOS,
    Scenario,
    build_tree,
    mount_tree,
    truth_j,
    watch_core,
    write_counters,
)

PACKAGES = {
    "zeus": "zeus==0.16.0",
    "codecarbon": "codecarbon==3.3.2",
    "perun": "perun==1.0.0",
    "pyRAPL": "pyRAPL==0.2.3.1",
    "pyJoules": "pyJoules==0.5.1",
    "carbontracker": "carbontracker==2.4.7",
}
TRIES = 3
UNCALIBRATED = "no window in which the machine kept time"


# ── the metered process ──────────────────────────────────────────────────────────────────────────────


class Load:
    """What every tool meters: stretches of sleep, each noted by the process itself."""

    def __init__(self, work: Path, scenario: Scenario) -> None:
        self._control, self.scenario = work / CONTROL, scenario
        self.lengths_s = [length_s for length_s, times in scenario.windows for _ in range(times)]
        self.stretches: list[tuple[int, int]] = []

    def announce(self) -> None:
        """Tells the machine when its schedule starts, 20 ms from now, and waits for that."""
        start_ns = time.monotonic_ns() + 20_000_000
        self._control.write_text(f"{start_ns}\n")
        time.sleep(0.02)

    def run(self, length_s: float) -> None:
        """One stretch."""
        start_ns = time.monotonic_ns()
        time.sleep(length_s)
        self.stretches.append((start_ns, time.monotonic_ns()))


Figure = float | tuple[float, float, float]
"""Joules, or joules with the interval that the tool gives them."""


def with_joulemeter(load: Load) -> list[Figure]:
    """Stretches of one Meter, asked for after the block."""
    import joulemeter

    with joulemeter.Meter(sources=["rapl"]) as meter:
        load.announce()
        for length_s in load.lengths_s:
            load.run(length_s)
            time.sleep(0.013)
    energies = [meter.energy_between(*stretch) for stretch in load.stretches]
    return [(energy.energy_j, energy.low_j, energy.high_j) for energy in energies]


def with_zeus(load: Load) -> list[Figure]:
    """A window each; package and memory."""
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(cpu_indices=[0], gpu_indices=[])
    load.announce()
    figures: list[Figure] = []
    for length_s in load.lengths_s:
        monitor.begin_window("window")
        load.run(length_s)
        seen = monitor.end_window("window")
        figures.append(sum((seen.cpu_energy or {}).values()) + sum((seen.dram_energy or {}).values()))
    return figures


def with_codecarbon(load: Load) -> list[Figure]:
    """A task each, processor only: its figure for memory is an estimate of its own, not the counter's."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU",
        measure_power_secs=1,
        save_to_file=False,
        log_level="error",
        rapl_include_dram=True,
    )
    load.announce()
    figures: list[Figure] = []
    for number, length_s in enumerate(load.lengths_s):
        tracker.start_task(f"window {number}")
        load.run(length_s)
        figures.append(tracker.stop_task().cpu_energy * 3.6e6)
    tracker.stop()
    return figures


def with_perun(load: Load) -> list[Figure]:
    """One application each, at its usual 1 Hz: perun's regions carry no energy. The first five windows."""
    from perun import perun, register_callback
    from perun.configuration import config
    from perun.core import Perun
    from perun.data_model.data import MetricType

    Perun(config)  # there must be one for a callback to be registered

    figures: list[Figure] = []
    announced: list[bool] = []

    def take(node: object) -> None:
        figures.append(float(node.metrics[MetricType.ENERGY].value))  # type: ignore[attr-defined]

    for length_s in load.lengths_s[:5]:  # each takes it some seconds to set up

        def application(length_s: float = length_s) -> None:
            if not announced:
                announced.append(True)
                start_ns = time.monotonic_ns()
                load.announce()
                load.run(length_s)
                load.stretches[-1] = (start_ns, load.stretches[-1][1])
                return
            load.run(length_s)

        register_callback(take)
        perun(data_out="/tmp/perun_results", format="json")(application)()
    return figures


def with_pyrapl(load: Load) -> list[Figure]:
    """A Measurement each."""
    import pyRAPL

    pyRAPL.setup()
    load.announce()
    figures: list[Figure] = []
    for length_s in load.lengths_s:
        measurement = pyRAPL.Measurement("window")
        measurement.begin()
        load.run(length_s)
        measurement.end()
        figures.append((sum(measurement.result.pkg or []) + sum(measurement.result.dram or [])) / 1e6)
    return figures


def with_pyjoules(load: Load) -> list[Figure]:
    """An EnergyMeter each."""
    from pyJoules.device import DeviceFactory
    from pyJoules.energy_meter import EnergyMeter

    meter = EnergyMeter(DeviceFactory.create_devices())
    load.announce()
    figures: list[Figure] = []
    for length_s in load.lengths_s:
        meter.start()
        load.run(length_s)
        meter.stop()
        sample = meter.get_trace()[0]
        figures.append(
            sum(value for name, value in sample.energy.items() if name[:4] in ("pack", "dram")) / 1e6
        )
    return figures


def with_carbontracker(load: Load) -> list[Figure]:
    """An epoch each; its energy less the PUE it multiplies by."""
    from carbontracker.tracker import CarbonTracker

    tracker = CarbonTracker(
        # One epoch more than there are: after the last one it forgets what it measured.
        epochs=len(load.lengths_s) + 1,
        epochs_before_pred=0,
        update_interval=1,
        components="cpu",
        verbose=0,
    )
    time.sleep(1.0)
    load.announce()
    for length_s in load.lengths_s:
        tracker.epoch_start()
        load.run(length_s)
        tracker.epoch_end()
    thread = tracker.tracker
    kwh = [component.energy_usage(thread.epoch_times) for component in thread.components]
    return [sum(each) * 3.6e6 for each in zip(*kwh, strict=True)]


TOOLS: dict[str, Callable[[Load], list[Figure]]] = {
    "joulemeter": with_joulemeter,
    "zeus": with_zeus,
    "codecarbon": with_codecarbon,
    "perun": with_perun,
    "pyRAPL": with_pyrapl,
    "pyJoules": with_pyjoules,
    "carbontracker": with_carbontracker,
}


def measure(tool: str, number: int, work: Path, result: Path) -> None:
    """Runs inside the tool's own environment; writes what the tool said, or how it failed."""
    load = Load(work, SCENARIOS[number])
    said: dict[str, object] = {}
    try:
        said["figures"] = TOOLS[tool](load)
    except BaseException as error:
        said["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:90]
        raise
    finally:
        said["stretches"] = load.stretches
        said["scheduled_ns"] = int((work / CONTROL).read_text() or 0)
        result.write_text(json.dumps(said))


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Outcome:
    """What a tool said of one scenario: relative errors of its windows, or how it ended otherwise."""

    errors: tuple[float, ...] = ()
    covered: tuple[bool, ...] = ()
    words: str = ""
    seen_j: tuple[float, ...] = ()
    true_j: tuple[float, ...] = ()

    def cell(self) -> str:
        """For the table: the median and the worst error of several windows, the error of a single one."""
        if self.words:
            return self.words
        shown = sorted(self.errors, key=abs)
        worst = (
            f"{shown[-1]:+.2%}"
            if abs(shown[-1]) < 10
            else f"{self.seen_j[0]:,.0f} J for {self.true_j[0]:,.0f} J"
        )
        text = worst if len(shown) == 1 else f"{shown[len(shown) // 2]:+.2%}, worst of {len(shown)} {worst}"
        return text if not self.covered or all(self.covered) else f"{text} (outside its interval)"


def was_calibrated(stretch: tuple[int, int], late: list[tuple[int, int]]) -> bool:
    """Whether the machine kept time within 3 ms of both ends; where the host stalled the writer, or a core that
    a tool may read on, no tool could be right, and the window says nothing."""
    near_ns = 3_000_000
    return not any(due - near_ns < end < done + near_ns for due, done in late for end in stretch)


def judge(scenario: Scenario, said: dict, late: list[tuple[int, int]], last_line: str) -> Outcome:
    """The outcome of what a tool said."""
    if "figures" not in said:
        if "error" not in said and said["scheduled_ns"]:
            return Outcome(words=f"ends the process while the load runs: {last_line}")
        when = "fails after the load has run" if said.get("stretches") else "refuses before the load runs"
        return Outcome(words=f"{when}: {said.get('error', last_line)}")
    seen = [figure if isinstance(figure, list) else [figure] for figure in said["figures"]]
    true = [truth_j(scenario, said["scheduled_ns"], stretch) for stretch in said["stretches"]]
    if any(figure[0] != figure[0] for figure in seen):
        return Outcome(words="says that it does not know")
    kept = [
        (figure, truth)
        for figure, truth, stretch in zip(seen, true, said["stretches"], strict=True)
        if was_calibrated(stretch, late)
    ]
    if not kept:
        return Outcome(words=UNCALIBRATED)
    errors = tuple(figure[0] / truth - 1 for figure, truth in kept)
    covered = tuple(figure[1] <= truth <= figure[2] for figure, truth in kept if len(figure) == 3)
    return Outcome(errors, covered, "", tuple(f[0] for f, _ in kept), tuple(truth for _, truth in kept))


def beside(work: Callable[[Callable[[], bool]], None]) -> int:
    """A child that does ``work``, told when this process is gone; its number."""
    child = os.fork()
    if child == 0:
        parent = os.getppid()
        work(lambda: os.getppid() != parent)
        os._exit(0)
    return child


def run_one(tool: str, number: int, work: Path, python: Path) -> Outcome:
    """One tool through one scenario, on a machine started for it."""
    scenario = SCENARIOS[number]
    build_tree(work, scenario.dram_w > 0)
    (work / CONTROL).write_text("0\n")
    result = work / "result.json"
    result.unlink(missing_ok=True)
    if scenario.fault == "forbidden":
        for file in (work / COUNTERS).rglob("energy_uj"):
            file.chmod(0o200)
    (work / LATE).write_text("")
    children = [beside(lambda gone: write_counters(work, scenario, gone))]
    children += [
        beside(lambda gone, core=core: watch_core(work, core, gone)) for core in os.sched_getaffinity(0)
    ]
    try:
        powerless = (
            ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if scenario.fault == "forbidden" else []
        )
        command = [*powerless, str(python), __file__, "--measure", tool, str(number), str(work), str(result)]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=180, check=False)
        lines = re.findall(r"^\w[\w.]*(?:Error|Exception)\b.*", done.stderr, re.MULTILINE)
        lines = lines or [f"status {done.returncode}"]
        said = json.loads(result.read_text()) if result.exists() else {}
        said.setdefault("scheduled_ns", int((work / CONTROL).read_text()))
        late = [tuple(map(int, line.split())) for line in (work / LATE).read_text().splitlines()]
        return judge(scenario, said, late, lines[-1][:90])
    except subprocess.TimeoutExpired:
        return Outcome(words="hung: stopped after 180 s")
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)


def install(tool: str, workdir: Path) -> Path:
    """The Python of the tool's own environment, made where it is not there."""
    if tool == "joulemeter":
        return Path(sys.executable)
    python = workdir / tool / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", workdir / tool], check=True)
    if subprocess.run([python, "-m", "pip", "show", "-q", tool], check=False, capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGES[tool]], check=True)
    return python


def table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Markdown: a row a scenario, a column a tool."""
    tools = list(outcomes)
    rows = [f"| | {' | '.join(tools)} |", f"|---|{'---|' * len(tools)}"]
    for scenario in SCENARIOS:
        cells = [outcomes[tool][scenario.name].cell() for tool in tools if scenario.name in outcomes[tool]]
        if cells:
            rows.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def compare(workdir: Path, tools: list[str], numbers: list[int], output: Path | None) -> None:
    """Every tool through every scenario; prints the table as it grows and writes it."""
    pythons = {tool: install(tool, workdir) for tool in tools}
    # Every tool alike goes before whatever else this host does: a tool that waits for its turn is late, not wrong.
    os.nice(-15)
    work = Path("/run/joulemeter-peers")
    work.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", work], check=True)
    (work / "class").mkdir()
    mount_tree(work / "class")
    outcomes: dict[str, dict[str, Outcome]] = {tool: {} for tool in tools}
    for number in numbers:
        for tool in tools:
            outcome = Outcome(words=UNCALIBRATED)
            for _ in range(TRIES):
                if outcome.words == UNCALIBRATED:
                    outcome = run_one(tool, number, work, pythons[tool])
            outcomes[tool][SCENARIOS[number].name] = outcome
            sys.stderr.write(f"{SCENARIOS[number].name} · {tool}: {outcome.cell()}\n")
    sys.stdout.write(table(outcomes))
    if output is not None:
        output.write_text(table(outcomes), encoding="utf-8")


def main() -> None:
    """Parses the command line; enters a mount namespace of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path.home() / ".cache" / "joulemeter-peers")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--scenarios", default=",".join(map(str, range(len(SCENARIOS)))))
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        tool, number, work, result = given.measure
        measure(tool, int(number), Path(work), Path(result))
        return
    if not given.inside:
        if os.geteuid() != 0:
            sys.exit(
                "peers.py needs root, for a mount namespace of its own. Try: sudo python benchmarks/peers.py"
            )
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv, "--inside"])
    numbers = [int(number) for number in given.scenarios.split(",")]
    compare(given.workdir, given.tools.split(","), numbers, given.output)


if __name__ == "__main__":
    main()
