"""Data sets at URLs: the same promises on a real S3 server, in memory, and on stores that show half-written files."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from joulemeter import dataset, energy_runs, storage, sweep
from joulemeter.cli._places import PLACE
from joulemeter.errors import DatasetError, UsageError
from test_dataset import rows
from test_sweep import SMALL, keys, swept

fsspec = pytest.importorskip("fsspec")
# Sockets of S3 clients are closed by the collector, at the interpreter's end.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """The address of a bucket on a real S3 server of this machine; where it is, is in the environment."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    told = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(told["AWS_ENDPOINT_URL"], timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    import s3fs

    s3fs.S3FileSystem().mkdir("sweeps")
    yield "s3://sweeps"
    server.kill()
    server.wait()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(params=["folder", "file", "memory", "dirfs", "s3"])
def where(request, tmp_path):
    """A place of each kind, empty."""
    name = f"{request.node.name.partition('[')[0]}-{time.time_ns()}"
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{name}"
    return {
        "folder": tmp_path / "d",
        "file": f"file://{tmp_path}/d",
        "memory": f"memory://{name}/d",
        "dirfs": f"dir::file://{tmp_path}/d",
    }[request.param]


def test_what_is_put_is_there_whole_until_it_is_removed(where) -> None:
    place = storage.place(where)
    assert not place.exists()
    assert place.names() == []
    place.put("a.txt", b"one")
    place.put("a.txt", b"two")
    assert place.exists()
    assert place.names() == ["a.txt"]
    assert place.holds("a.txt")
    assert not place.holds("b.txt")
    assert list(place.read_all(["a.txt"])) == [place.read("a.txt")] == [b"two"]
    place.remove("a.txt")
    place.remove("a.txt")
    assert not place.holds("a.txt")
    with pytest.raises(FileNotFoundError):
        place.read("a.txt")


def test_a_data_set_reads_back_and_compacts(where) -> None:
    dataset.append(where, rows(3))
    dataset.append(where, rows(2, first=3), part="named")
    assert dataset.is_dataset(where)
    assert sorted(map(str, dataset.read(where).records)) == sorted(map(str, rows(5)))
    dataset.compact(where)
    assert len(dataset.parts(where)) == 1
    assert len(dataset.read(where)) == 5
    assert str(dataset.write_card(where)).endswith("card.json")
    with pytest.raises(DatasetError, match="already"):
        dataset.write(where, dataset.Dataset("x", ()))


def test_a_sweep_goes_on_and_refuses_another_plan_and_a_second_sweep(where, monkeypatch) -> None:
    monkeypatch.setattr(storage, "BEAT_S", 0.05)
    assert swept(where, monkeypatch).done == len(SMALL.configurations)
    storage.place(where).remove(f"part-{SMALL.configurations[3].key}.parquet")
    tally = swept(where, monkeypatch)
    assert (tally.done, tally.before) == (1, len(SMALL.configurations) - 1)
    assert keys(where) == sorted(each.key for each in SMALL.configurations)
    assert len(energy_runs.read(where).runs) == len(SMALL.configurations)
    with pytest.raises(DatasetError, match="of the plan"):
        swept(where, monkeypatch, sweep.Plan("other", SMALL.configurations[:2]))
    with sweep.opened(where, SMALL), pytest.raises(DatasetError, match="another sweep"):
        swept(where, monkeypatch)


class Slow:
    """A file system that shows the beginnings of what is written, as SFTP does."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []

    def makedirs(self, path, exist_ok): ...

    def pipe_file(self, path, content):
        self.files[path] = content[: len(content) // 2]
        self.seen.append(path)
        self.files[path] = content

    def mv(self, old, new):
        self.files[new] = self.files.pop(old)


def test_where_a_write_shows_its_beginnings_the_name_comes_last() -> None:
    files = Slow()
    storage.Store(files, "root", "sftp://host/root", whole_puts=False).put("part-a.parquet", b"whole")
    assert files.files == {"root/part-a.parquet": b"whole"}
    assert all(path.endswith(".partial") for path in files.seen)


def test_a_hold_of_somebody_who_died_is_taken_over_and_a_living_one_is_not(monkeypatch) -> None:
    monkeypatch.setattr(storage, "BEAT_S", 0.05)
    place = storage.place(f"memory://held-{time.time_ns()}/d")
    place.put("lock", b'{"token": "gone", "count": 7, "host": "another"}')
    began = time.monotonic()
    with place.held("lock") as hold:
        assert time.monotonic() - began >= storage.PATIENCE_BEATS * storage.BEAT_S
        hold.check()
        with pytest.raises(BlockingIOError), place.held("lock"):
            pass
    assert not place.holds("lock")


def test_who_loses_a_hold_learns_of_it(monkeypatch) -> None:
    monkeypatch.setattr(storage, "BEAT_S", 0.05)
    place = storage.place(f"memory://lost-{time.time_ns()}/d")
    with place.held("lock") as hold:
        place.put("lock", b'{"token": "another", "count": 1}')
        time.sleep(0.3)
        with pytest.raises(DatasetError, match="taken over"):
            hold.check()
    assert place.holds("lock")


def test_of_many_who_start_at_once_one_holds(monkeypatch) -> None:
    monkeypatch.setattr(storage, "BEAT_S", 0.2)
    place, inside, refused = storage.place(f"memory://race-{time.time_ns()}/d"), [], []

    def one() -> None:
        try:
            with place.held("lock"):
                inside.append(1)
                time.sleep(0.5)
        except BlockingIOError:
            refused.append(1)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(inside), len(refused)) == (1, 3)


def test_an_address_nobody_serves_is_a_line_with_a_remedy() -> None:
    with pytest.raises(UsageError, match="pip install"):
        storage.place("nosuch://x/y")


def test_an_address_keeps_its_slashes_and_a_path_is_a_path() -> None:
    assert PLACE.convert("s3://bucket/a", None, None) == "s3://bucket/a"
    assert PLACE.convert("a/b", None, None) == Path("a/b")


def test_a_store_that_refuses_is_a_line(s3) -> None:
    with pytest.raises(DatasetError, match="the store refuses"):
        dataset.append("s3://no-such-bucket/d", rows(1))


ON_S3 = """
import sys, time
sys.path.insert(0, {tests!r})
import test_sweep
from joulemeter import storage, sweep
storage.BEAT_S = 0.2
def slow(job):
    time.sleep(0.01)
    return test_sweep.said(job)
sweep.outcome = slow
print("go", flush=True)
sweep.sweep({where!r}, test_sweep.SMALL, tables={tests!r})
"""


def test_killed_on_s3_the_sweep_goes_on_at_once_and_loses_only_the_run_in_progress(s3) -> None:
    where = f"{s3}/killed-{time.time_ns()}"
    code, known = ON_S3.format(tests=str(Path(__file__).parent), where=where), set()
    for delay in (0.3, 0.5):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        now = dataset.parts(where) - {"0-start"}
        assert known <= now
        known = now
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert keys(where) == sorted(each.key for each in SMALL.configurations)


@pytest.mark.filterwarnings("default")
def test_workers_killed_mid_run_write_to_s3_all_runs_once(s3, tmp_path) -> None:
    distributed = pytest.importorskip("distributed")
    import test_cluster
    from joulemeter import cluster

    where = f"{s3}/cluster-{time.time_ns()}"
    made = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        resources={cluster.RESOURCE: 1},
    )
    with made, distributed.Client(made) as client:
        tally = cluster.run_plan(client, where, test_cluster.PLAN, tables=tmp_path, work=test_cluster.deadly)
    assert (tmp_path / test_cluster.PLAN.configurations[2].key).exists()
    assert (tally.done, tally.failed) == (len(test_cluster.PLAN.configurations), 0)
    assert keys(where) == sorted(each.key for each in test_cluster.PLAN.configurations)
