"""Rails watched live, and what a real Prometheus makes of them."""

import io
import json
import math
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from rich import console

from joulemeter import errors, meter, run
from joulemeter.live import Followed, LiveRail, Watch
from joulemeter.reading import Rail, Reading
from joulemeter.report import live as live_view

pytest.importorskip("prometheus_client")
RAIL = Rail(id=0, name="package-0", kind="counter", origin="simulated", period_ns=1_000_000, range_j=100.0)
SECOND = 1_000_000_000


def fed(*values: float) -> LiveRail:
    live = LiveRail(RAIL)
    for second, value in enumerate(values):
        live.feed(Reading(0, second * SECOND, value))
    return live


def test_energy_adds_up_over_a_wrap() -> None:
    assert fed(80, 90, 10).state.energy_j == pytest.approx(30)
    assert fed(80, 90).state.power_w == pytest.approx(10)


def test_a_failed_read_is_counted_and_its_energy_comes_with_the_next() -> None:
    state = fed(10, math.nan, 30).state
    assert (state.energy_j, state.failed) == (pytest.approx(20), 1)
    assert math.isnan(fed(10, 20, math.nan).state.power_w), "the power now is not known, not zero"


def test_a_reset_is_time_unseen_and_no_energy() -> None:
    live = LiveRail(Rail(id=0, name="p", kind="counter", origin="simulated", period_ns=1_000_000))
    for second, value in enumerate([50.0, 60.0, 5.0, 15.0]):
        live.feed(Reading(0, second * SECOND, value))
    assert live.state.energy_j == pytest.approx(20)
    assert live.state.unseen_s == pytest.approx(1)


def test_a_watch_follows_a_known_power() -> None:
    with Watch(["simulated:load=constant,busy=100"], period_s=0.05) as watch:
        time.sleep(0.5)
        (state,) = watch.states()
    assert state.power_w == pytest.approx(100, rel=0.2)
    assert state.energy_j > 10


@pytest.fixture
def served(tmp_path: Path):  # type: ignore[no-untyped-def]
    """`joulemeter serve` on a free port of this machine; yields the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "joulemeter", "serve", "--prometheus", f":{port}", "--period", "50ms"]
    process = subprocess.Popen(
        [*command, "--source", "simulated:load=constant,dram=5"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "/metrics" in process.stderr.readline()
    yield port
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    process.stderr.close()


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def test_metrics_have_types_units_and_origins(served: int) -> None:
    time.sleep(0.3)
    text = metrics(served)
    assert "# TYPE joulemeter_energy_joules_total counter" in text
    assert "# TYPE joulemeter_power_watts gauge" in text
    assert 'origin="simulated"' in text
    assert 'inside=""' in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_of(served: int) -> None:
    time.sleep(0.3)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics(served), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"
)
def test_a_real_prometheus_scrapes_a_rising_counter(served: int, tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: j, static_configs: [{{targets: ['127.0.0.1:{served}']}}]}}]\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        stamps, values = _scraped(port, "joulemeter_energy_joules_total{rail='package-0'}[1m]")
    finally:
        server.terminate()
        server.wait(timeout=20)
    assert values == sorted(values)
    assert (values[-1] - values[0]) / (stamps[-1] - stamps[0]) == pytest.approx(100, rel=0.15)


def _scraped(port: int, query: str) -> tuple[list[float], list[float]]:
    """Stamps and values of the one series, when at least ten have been scraped."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query=" + urllib.parse.quote(query)
    for _ in range(120):
        time.sleep(0.25)
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            continue
        if result and len(result[0]["values"]) >= 10:
            return [v[0] for v in result[0]["values"]], [float(v[1]) for v in result[0]["values"]]
    raise AssertionError("prometheus never had an answer")


def test_a_port_that_is_taken_is_one_line(served: int) -> None:
    command = [
        sys.executable,
        "-m",
        "joulemeter",
        "serve",
        "--prometheus",
        f":{served}",
        "--source",
        "simulated",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "cannot be served on" in done.stderr


def test_watch_without_a_terminal_writes_a_line_a_look_with_carbon_beside_joules() -> None:
    command = [
        sys.executable,
        "-m",
        "joulemeter",
        "watch",
        "--source",
        "simulated:load=constant",
        "--for",
        "500ms",
    ]
    options = ["--period", "200ms", "--carbon-intensity", "360000", "--price", "0.5"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=60)
    looks = [line for line in done.stdout.splitlines() if "package-0" in line]
    assert len(looks) >= 2
    assert all("simulated" in line for line in looks)
    assert "carbon of" in done.stdout
    assert "cost of" in done.stdout
    assert "\x1b" not in done.stdout, "no colours when piped"


def test_watch_ends_with_the_process_it_watches() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    command = [
        sys.executable,
        "-m",
        "joulemeter",
        "watch",
        str(process.pid),
        "--source",
        "simulated",
        "--period",
        "100ms",
    ]
    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    process.wait()
    assert watch.wait(timeout=20) == 0


def test_watching_nobody_is_refused() -> None:
    command = [sys.executable, "-m", "joulemeter", "watch", "99999999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "there is no process 99999999" in done.stderr) == (2, True)


def test_the_view_does_not_wait_for_the_ledger_of_the_run_it_follows(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "run"
    with meter.Meter(sources=["simulated:load=constant"], folder=folder) as recorded, recorded.span("work"):
        time.sleep(0.3)
    held = threading.Event()
    ledger = run.Run.ledger
    monkeypatch.setattr(run.Run, "ledger", lambda self: held.wait(20) and ledger(self))
    with Followed(folder) as followed:
        assert followed.latest is None
        held.set()
        while followed.latest is None:
            time.sleep(0.01)
    shown = io.StringIO()
    console.Console(file=shown, width=100).print(live_view.sites(followed.latest))
    assert "work" in shown.getvalue()
    assert "95 % interval" in shown.getvalue()
    assert "joulemeter-follow" not in {thread.name for thread in threading.enumerate()}


def test_a_folder_that_is_no_run_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(errors.RunFolderError, match="there is no such run folder"):
        Followed(tmp_path / "nowhere")


def test_watch_in_a_terminal_draws_rails_with_intervals_and_ends_at_ctrl_c() -> None:
    """A real terminal: a pseudo-terminal of 100 columns."""
    command = [
        sys.executable,
        "-m",
        "joulemeter",
        "watch",
        "--source",
        "simulated:load=constant",
        "--period",
        "100ms",
    ]
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=theirs, env=env)
    os.close(theirs)
    shown = b""
    while b"package-0" not in shown:
        shown += os.read(ours, 10_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    os.close(ours)
    assert "95 % interval" in shown.decode(errors="replace")
