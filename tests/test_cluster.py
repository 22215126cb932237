"""Sweeps on Dask: workers may die, runs are recorded once, and batch scripts ask for a node each."""

import os
import signal
import time

import pytest

from joulemeter import cluster, dataset, plan
from joulemeter.errors import DatasetError, UsageError
from test_sweep import said

distributed = pytest.importorskip("distributed")
PLAN = plan.make(
    {"datasets": ["banana"], "shapes": ["rectangle", "trapezoid"], "depths": [3, 4], "sizes": [512, 2048]}
)


def deadly(job):
    """A run that takes its worker along the first time somebody tries it."""
    first = job.tables / job.configuration.key
    if job.configuration == PLAN.configurations[2] and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return said(job)


@pytest.fixture(scope="module")
def local():
    """A scheduler and two workers, each a process of its own."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        resources={cluster.RESOURCE: 1},
    ) as made:
        yield made


@pytest.mark.filterwarnings("default")
def test_a_killed_worker_loses_nothing_and_nothing_is_recorded_twice(local, tmp_path) -> None:
    folder = tmp_path / "data"
    with distributed.Client(local) as client:
        tally = cluster.run_plan(client, folder, PLAN, tables=tmp_path, work=deadly)
        assert (tmp_path / PLAN.configurations[2].key).exists()
        assert (tally.done, tally.failed) == (len(PLAN.configurations), 0)
        keys = [str(record.facts["key"]) for record in dataset.read(folder).records]
        assert sorted(keys) == sorted(each.key for each in PLAN.configurations)
        (folder / f"part-{PLAN.configurations[0].key}.parquet").unlink()
        again = cluster.run_plan(client, folder, PLAN, tables=tmp_path, work=deadly)
        assert (again.done, again.before) == (1, len(PLAN.configurations) - 1)
    with cluster.connected(local.scheduler_address) as client:
        client.wait_for_workers(2)
        cluster._check_workers(client)


def test_a_run_that_is_recorded_is_not_run_again_on_another_node(tmp_path) -> None:
    """A worker that is lost after the append and before its answer."""
    from joulemeter.trial import Job

    job = Job(PLAN.configurations[0], tmp_path)
    cluster.on_node(str(tmp_path / "data"), job.to_json(), said)

    def never(job):
        raise AssertionError("run twice")

    assert cluster.on_node(str(tmp_path / "data"), job.to_json(), never)["status"] == "done"
    assert len(dataset.read(tmp_path / "data")) == 1


def test_a_node_without_the_table_is_refused_and_trains_no_stand_in(tmp_path) -> None:
    from joulemeter.trial import Job

    job = Job(PLAN.configurations[0], tmp_path)
    with pytest.raises(UsageError, match="is stand-in on"):
        cluster.on_node(tmp_path / "data", job.to_json(), said, "pmlb")
    assert not (tmp_path / "data").exists()


def test_runs_of_one_node_take_turns() -> None:
    import threading

    inside, most = [], []

    def turn() -> None:
        with cluster._alone():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=turn) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1, 1, 1, 1]


class _Bare:
    """A client of a scheduler whose workers offer nothing."""

    def scheduler_info(self, n_workers=5):
        return {"workers": {"tcp://a": {"resources": {}}}}


def test_workers_without_the_resource_are_refused_with_the_remedy(tmp_path) -> None:
    with pytest.raises(UsageError, match="--resources"):
        cluster.run_plan(_Bare(), tmp_path, PLAN, tables=tmp_path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("scheduler", "lines"),
    [
        (
            "slurm",
            [
                "#SBATCH -p short",
                "#SBATCH -A lab",
                "#SBATCH -t 01:30:00",
                "#SBATCH --exclusive",
                "#SBATCH --cpus-per-task=36",
            ],
        ),
        (
            "pbs",
            [
                "#PBS -q short",
                "#PBS -l walltime=01:30:00",
                "#PBS -l place=excl",
                "#PBS -l select=1:ncpus=36:mem=60GB",
            ],
        ),
    ],
)
def test_batch_scripts_ask_for_a_node_alone_and_a_worker_with_the_resource(scheduler, lines) -> None:
    pytest.importorskip("dask_jobqueue")
    nodes = cluster.Nodes(4, "01:30:00", "short", "lab", cores=36, memory="64GB")
    with cluster.batch(scheduler, nodes) as made:
        script = made.job_script()
    for line in lines:
        assert line in script
    assert "--resources joulemeter=1" in script
    assert "--nworkers" not in script  # one worker a node
    assert script.count("--nthreads") == 1
    assert "--nthreads 1 " in script


def test_runs_on_a_worker_have_the_threads_that_they_have_without_dask(tmp_path, monkeypatch) -> None:
    """Dask's nanny gives its worker OMP_NUM_THREADS=1, which PyTorch would take for its own number."""
    from joulemeter import sweep
    from joulemeter.trial import Job

    given = []
    monkeypatch.setattr(sweep, "outcome", lambda job, environment: given.append(environment) or said(job))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "6")
    cluster.on_node(tmp_path / "data", Job(PLAN.configurations[0], tmp_path).to_json())
    assert "OMP_NUM_THREADS" not in given[0]
    assert given[0]["MKL_NUM_THREADS"] == "6"
    assert given[0]["PATH"] == os.environ["PATH"]


class _Cancelled:
    """A future whose scheduler is gone."""

    def cancelled(self):
        return True


def test_a_lost_scheduler_is_said_with_the_remedy(tmp_path) -> None:
    from joulemeter.trial import Job

    with pytest.raises(DatasetError, match=r"the scheduler was lost.*goes on where it was"):
        cluster._finished(_Cancelled(), tmp_path, Job(PLAN.configurations[0], tmp_path))


def test_jobs_are_asked_for_again_while_the_sweep_lasts(monkeypatch) -> None:
    """Dask submits a job that reached its wall time when it is asked to scale the next time, not before."""
    import threading

    monkeypatch.setattr(cluster, "AGAIN_S", 0.001)
    asked, thrice = [], threading.Event()

    class Batch:
        def scale(self, jobs):
            asked.append(jobs)
            if len(asked) == 3:
                thrice.set()

    with cluster._scaled(Batch(), 7):
        assert thrice.wait(60)
    count = len(asked)
    assert set(asked) == {7}
    assert len(asked) == count
