"""Ranks and machines that worked together: a rail of one host counts once, rails of different hosts add."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import joulemeter
from joulemeter import ranks, run, timeline, torchrun
from joulemeter.errors import JoulemeterError
from joulemeter.reading import Rail, rank_of
from joulemeter.run import Run
from joulemeter.span import Site, Spans

PROGRAM = Path(__file__).parent / "programs" / "data_parallel.py"
SOURCE = "simulated:load=constant,idle=50,busy=50,period=1ms"
S = 1_000_000_000
COUNTER = Rail(id=0, name="package-0", kind="counter", origin="simulated", period_ns=S // 100, source="rapl")


def joulemeter_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "joulemeter", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


# ── real ranks ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`torchrun … -m joulemeter run`: a folder a rank."""
    pytest.importorskip("torch.distributed")
    folder = tmp_path_factory.mktemp("ranks") / "RUN"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    inner = ["-m", "joulemeter", "run", "--source", SOURCE, "-o", str(folder), str(PROGRAM), "0.5"]
    done = subprocess.run(
        [sys.executable, *launcher, *inner],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == ["rank 0 of 2: 3", "rank 1 of 2: 3"]
    return folder


@pytest.fixture(scope="module")
def by_launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`joulemeter run -- -m torch.distributed.run …`: one folder."""
    pytest.importorskip("torch.distributed")
    folder = tmp_path_factory.mktemp("launcher") / "RUN"
    words = ["--", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, PROGRAM, 0.5]
    done = subprocess.run(
        joulemeter_command("run", "--source", SOURCE, "--quiet", "-o", folder, *words),
        capture_output=True, text=True, check=False, env=environment(), timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"rank 0 of 2: 3", "rank 1 of 2: 3"} <= set(done.stdout.split("\n"))
    return folder


def test_each_rank_has_a_run_folder_and_together_they_are_one_run(by_rank: Path) -> None:
    assert sorted(path.name for path in by_rank.iterdir()) == ["rank-0", "rank-1"]
    found = joulemeter.load(by_rank)
    assert [rail.name for rail in found.rails] == ["package-0"]
    assert {name.partition(",")[0] for name in found.header["lanes"]} == {"rank 0", "rank 1"}
    assert [part["rank"]["rank"] for part in found.header["merged"]] == [0, 1]


def test_the_total_of_two_ranks_is_the_hosts_power_times_the_time_once(by_rank: Path) -> None:
    parts = [joulemeter.load(by_rank / f"rank-{n}") for n in range(2)]
    first_ns = min(int(part.reading_t_ns.min()) for part in parts)
    last_ns = max(int(part.reading_t_ns.max()) for part in parts)
    total = joulemeter.load(by_rank).ledger().total
    assert total.energy_j == pytest.approx(50 * (last_ns - first_ns) / S, rel=0.02)
    assert total.energy_j < 0.8 * sum(part.ledger().total.energy_j for part in parts)


def test_report_takes_a_folder_of_ranks(by_rank: Path) -> None:
    done = subprocess.run(
        joulemeter_command("report", by_rank, "--format", "json"), capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    calls = {site["name"]: site["calls"] for site in document["sites"]}
    alone = [joulemeter.load(by_rank / f"rank-{n}").ledger() for n in range(2)]
    expected = sum(
        site.calls for each in alone for site in each.sites if site.site.name == "torch.nn.functional.linear"
    )
    assert calls["torch.nn.functional.linear"] == expected > 0


def test_under_the_meter_torchruns_workers_are_recorded_as_lanes_by_rank(by_launcher: Path) -> None:
    found = joulemeter.load(by_launcher)
    lanes = found.header["lanes"]
    assert any(name.startswith("rank 0, ") for name in lanes)
    assert any(name.startswith("rank 1, ") for name in lanes)
    linear = [site.id for site in found.sites if site.name == "torch.nn.functional.linear"]
    where = {
        lanes[lane].partition(",")[0] for lane in found.spans.lane[np.isin(found.spans.site, linear)].tolist()
    }
    assert where == {"rank 0", "rank 1"}
    found.ledger().check()


def test_a_launcher_that_waits_draws_on_none_of_its_workers_joules(by_launcher: Path) -> None:
    found = joulemeter.load(by_launcher)
    seen = {found.header["lanes"][lane].partition(",")[0] for lane in np.unique(found.spans.lane).tolist()}
    assert seen == {"rank 0", "rank 1"}
    assert [site.name for site in found.sites if site.kind == "run"] == [PROGRAM.name]
    assert not [site.name for site in found.sites if "launcher" in site.name]


def test_two_hosts_add_and_no_span_draws_on_another_machine(by_rank: Path, tmp_path: Path) -> None:
    """A second host, made of a real rank by another name, boot and clock."""
    shutil.copytree(by_rank / "rank-0", tmp_path / "a")
    shutil.copytree(by_rank / "rank-1", tmp_path / "b")
    header = json.loads((tmp_path / "b/run.json").read_text())
    header["host"] |= {"name": "node-b", "boot_id": "another"}
    (tmp_path / "b/run.json").write_text(json.dumps(header))
    done = subprocess.run(
        joulemeter_command("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "OUT"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "2 runs of" in done.stderr
    made = joulemeter.load(tmp_path / "OUT")
    assert [rail.name.partition("/")[2] for rail in made.rails] == ["package-0", "package-0"]
    ledger = made.ledger()
    ledger.check()
    alone = [joulemeter.load(tmp_path / name).ledger() for name in "ab"]
    assert ledger.total.energy_j == pytest.approx(sum(each.total.energy_j for each in alone), rel=1e-6)
    for rail, before in zip(ledger.rails, alone, strict=True):
        assert rail.attributed_j == pytest.approx(before.rails[0].attributed_j, rel=1e-6)


# ── merging, by hand ─────────────────────────────────────────────────────────────────────────────────


def made(folder: Path, t_s: list[float], value: list[float], rail: Rail = COUNTER, **header: object) -> Run:
    t_ns = (np.array(t_s) * S).astype(np.int64)
    sites = (Site(0, "work", "span"),)
    spans = Spans(np.zeros(1, np.int32), np.zeros(1, np.int32), t_ns[:1], t_ns[-1:], np.array([-1], np.int64))
    base = {
        "schema": 1,
        "state": "finished",
        "host": {"name": "a", "boot_id": "x"},
        "lanes": ["MainThread"],
        "notes": [],
    }
    return Run(
        folder,
        base | header,
        (rail,),
        sites,
        spans,
        np.zeros(len(t_ns), np.int16),
        t_ns,
        np.array(value, float),
    )


def total_j(merged: Run) -> float:
    return sum(line.total_j for line in merged.timelines())


def test_what_one_rank_saw_after_the_other_had_ended_counts_once(tmp_path: Path) -> None:
    first, second = (
        made(tmp_path / "0", [0, 1, 2], [100, 110, 120]),
        made(tmp_path / "1", [1, 2, 3, 4], [10, 20, 30, 40]),
    )
    found = ranks.merged([first, second], tmp_path)
    assert total_j(found) == pytest.approx(40)
    assert found.timelines()[0].gaps == ()


def test_what_no_rank_saw_is_a_gap_and_no_joule(tmp_path: Path) -> None:
    """Ranks that were restarted: nobody looked between second 2 and second 5."""
    found = ranks.merged(
        [made(tmp_path / "0", [0, 1, 2], [0, 10, 20]), made(tmp_path / "1", [5, 6], [500, 510])], tmp_path
    )
    (line,) = found.timelines()
    assert line.total_j == pytest.approx(30)
    assert [(gap.start_ns, gap.end_ns) for gap in line.gaps] == [(2 * S, 5 * S)]
    assert math.isnan(line.between(S, 6 * S))


def test_a_gap_within_a_rank_stays_one_when_it_is_written_and_read(tmp_path: Path) -> None:
    rail = Rail(**{**COUNTER.to_json(), "range_j": None})
    first = made(tmp_path / "0", [0, 1, 2, 3], [50, 60, 5, 15], rail)
    found = ranks.merged([first, made(tmp_path / "1", [2.5, 4], [0, 15], rail)], tmp_path / "OUT")
    run.keep(found)
    (line,) = joulemeter.load(tmp_path / "OUT").timelines()
    assert line.total_j == pytest.approx(30)
    assert [(gap.start_ns, gap.end_ns) for gap in line.gaps] == [(S, 2 * S)]


def test_containers_of_one_machine_are_one_host(tmp_path: Path) -> None:
    parts = [
        made(tmp_path / n, [0, 1, 2], [0, 10, 20], host={"name": f"pod-{n}", "boot_id": "x"}) for n in "ab"
    ]
    assert total_j(ranks.merged(parts, tmp_path)) == pytest.approx(20)


def test_hosts_without_a_boot_id_are_told_apart_by_name(tmp_path: Path) -> None:
    parts = [made(tmp_path / n, [0, 1, 2], [0, 10, 20], host={"name": f"node-{n}"}) for n in "ab"]
    assert total_j(ranks.merged(parts, tmp_path)) == pytest.approx(40)


def test_other_hosts_times_are_moved_onto_the_first_ones_clock(tmp_path: Path) -> None:
    here = made(tmp_path / "a", [0, 1], [0, 10], start={"wall_ns": 1000 * S, "monotonic_ns": 0})
    there = made(
        tmp_path / "b", [500, 501], [0, 10],
        host={"name": "b", "boot_id": "y"}, start={"wall_ns": 1000 * S, "monotonic_ns": 500 * S},
    )  # fmt: skip
    found = ranks.merged([here, there], tmp_path)
    assert found.spans.start_ns.tolist() == [0, 0]
    assert found.timelines()[1].t_ns.tolist() == [0, S]


def test_an_estimate_of_a_processor_that_another_rank_measured_is_left_out(tmp_path: Path) -> None:
    guess = Rail(**{**COUNTER.to_json(), "name": "machine", "origin": "estimated", "source": "estimate"})
    found = ranks.merged(
        [made(tmp_path / "0", [0, 1], [0, 10]), made(tmp_path / "1", [0, 1], [0, 90], guess)], tmp_path
    )
    assert [rail.name for rail in found.rails] == ["package-0"]
    assert any("left out" in note for note in found.header["notes"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(2, 30)), min_size=1, max_size=5), st.integers(1, 90)
)
def test_the_union_is_what_was_drawn_while_anybody_looked(windows: list[tuple[int, int]], watts: int) -> None:
    """Law: of one rail of constant power, the merged energy is power times the time that some rank covers."""
    lines = []
    for start, length in windows:
        t_ns = (np.arange(start, start + length + 1)).astype(np.int64) * S
        lines.append((t_ns, timeline.from_readings(COUNTER, t_ns, watts * (np.arange(length + 1.0)))))
    covered = len({second for start, length in windows for second in range(start, start + length)})
    t_ns, value = ranks.united_counters(lines)
    found = timeline.from_readings(Rail(**{**COUNTER.to_json(), "range_j": None}), t_ns, value)
    assert found.total_j == pytest.approx(watts * covered)


# ── where ranks are put ──────────────────────────────────────────────────────────────────────────────

TWO = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}


def test_one_process_alone_is_no_rank() -> None:
    assert rank_of({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert rank_of({"WORLD_SIZE": "4"}) is None
    assert rank_of(TWO) == {"rank": 1, "local_rank": 1, "world_size": 2, "restart": 0}


@pytest.mark.parametrize(("restart", "name"), [("0", "rank-1"), ("2", "rank-1-restart-2")])
def test_a_rank_and_each_of_its_restarts_has_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: str, name: str
) -> None:
    for key, value in (TWO | {"TORCHELASTIC_RESTART_COUNT": restart}).items():
        monkeypatch.setenv(key, value)
    assert ranks.place(tmp_path / "RUN") == tmp_path / "RUN" / name


def test_a_meter_in_a_rank_records_into_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in TWO.items():
        monkeypatch.setenv(key, value)
    with joulemeter.Meter(sources=[SOURCE], folder=tmp_path / "RUN"):
        pass
    assert (tmp_path / "RUN/rank-1/run.json").is_file()
    monkeypatch.delenv("RANK")
    assert joulemeter.load(tmp_path / "RUN").header["merged"][0]["rank"]["rank"] == 1


def test_ranks_do_not_go_into_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.json").write_text("{}")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(JoulemeterError, match="is a run folder"):
        ranks.place(tmp_path)


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    one = made(tmp_path / "0", [0, 1], [0, 10])
    with pytest.raises(JoulemeterError, match="named twice"):
        ranks.merged([one, one], tmp_path)


@pytest.mark.parametrize(
    ("program", "launches"),
    [
        (["-m", "torch.distributed.run", "x.py"], True),
        (["/venv/bin/torchrun", "x.py"], True),
        (["-m", "train"], False),
        (["train.py"], False),
        (["-c", "torchrun"], False),
    ],
)
def test_only_known_launchers_are_given_an_interpreter(
    program: list[str], launches: bool, tmp_path: Path
) -> None:
    assert (
        torchrun.environment(program, ["python", "-m", "joulemeter.launch"], tmp_path) is not None
    ) is launches


def test_a_launcher_is_recorded_where_its_workers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ["-m", "torch.distributed.run", "train.py"]
    given = torchrun.environment(program, ["python", "-m", "joulemeter.launch"], tmp_path)
    assert given is not None
    monkeypatch.setenv("PYTHON_EXEC", given["PYTHON_EXEC"])
    assert torchrun.only_waits(program, str(tmp_path))
    assert not torchrun.only_waits(["train.py"], str(tmp_path))
    monkeypatch.setenv("PYTHON_EXEC", "/usr/bin/python")
    assert not torchrun.only_waits(program, str(tmp_path))
