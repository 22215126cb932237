"""Sweeps on a Dask cluster: one run at a time on each node, written by the node to the shared data set.

Workers offer the resource ``joulemeter``, one each, and a run asks for one; a lock on each node keeps workers
that share it from measuring each other. What a lost worker had in hand, Dask runs again elsewhere; a run
whose workers were lost time and again is recorded as failed. Records are named by their runs, so none is
there twice.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from joulemeter import dataset, storage, sweep, training_data
from joulemeter.errors import DatasetError, UsageError
from joulemeter.plan import Plan
from joulemeter.record import Record
from joulemeter.storage import Where
from joulemeter.sweep import Progress, Tally, Work
from joulemeter.trial import Job

if TYPE_CHECKING:
    from distributed import Client

RESOURCE = "joulemeter"
AGAIN_S = 30.0
"""How often a batch scheduler's jobs are counted, and lost ones submitted again."""
Scheduler = Literal["slurm", "pbs"]


@dataclass(frozen=True, slots=True)
class Nodes:
    """What is asked of a batch scheduler: so many nodes, each alone for so long."""

    count: int = 1
    walltime: str = "04:00:00"
    queue: str | None = None
    account: str | None = None
    cores: int = 1
    memory: str = "8GB"


def run_plan(
    client: Client,
    folder: Where,
    plan: Plan,
    *,
    tables: Path,
    sources: Sequence[str] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    work: Work | None = None,
) -> Tally:
    """As ``sweep.sweep``, on the workers of ``client``, which see ``folder`` and ``tables`` at these places.

    Raises UsageError where workers are there and none offers the resource.
    """
    from distributed import as_completed

    _check_workers(client)
    folder, tables = storage.absolute(folder), tables.absolute()
    with sweep.opened(folder, plan, resume) as hold:
        left = sweep.missing(folder, plan)
        tally = Tally(before=len(plan.configurations) - len(left))
        known = None if sources is None else tuple(sources)
        futures = {}
        origins = {each.dataset: training_data.source(each.dataset, tables) for each in left}
        for each in left:
            job = Job(each, tables, known).to_json()
            future = client.submit(
                on_node,
                folder,
                job,
                work,
                origins[each.dataset],
                key=f"joulemeter-{each.key}",
                resources={RESOURCE: 1},
                pure=False,
            )
            futures[future] = each
        finished = sweep.watched(left, progress)
        for future in as_completed(list(futures)):  # type: ignore[no-untyped-call]
            hold.check()
            configuration = futures.pop(future)
            tally.count(_finished(future, folder, Job(configuration, tables, known)))
            future.release()
            finished(configuration)
    return tally


def on_node(
    folder: Where, job_text: str, work: Work | None = None, origin: str | None = None
) -> dict[str, Any]:
    """What a worker does: the run, if it is not recorded yet, alone on its node; its status and error.

    Raises UsageError where its table is not of the ``origin`` that the sweep was started with: a stand-in
    would take the place of real data.
    """
    job = Job.from_json(job_text)
    _check_table(job, origin)
    with _alone():
        record = _recorded(folder, job) or sweep.record_one(folder, job, work or _outcome)
    return {key: record.facts.get(key) for key in ("status", "error")}


def _outcome(job: Job) -> dict[str, Any]:
    """As ``sweep.outcome``, with as many threads as PyTorch takes by itself on this node.

    Dask's nanny gives its worker one thread for each numerical library and another setting of ``malloc``; a
    run of the sweep is to cost what it costs without Dask.
    """
    import dask

    given = dask.config.get("distributed.nanny.pre-spawn-environ")
    return sweep.outcome(job, {k: v for k, v in os.environ.items() if k not in given or v != str(given[k])})


def _check_table(job: Job, origin: str | None) -> None:
    name = job.configuration.dataset
    here = training_data.source(name, job.tables)
    if origin is not None and here != origin:
        raise UsageError(
            f"{name} is {here} on {socket.gethostname()} and {origin} where the sweep was started",
            f"--tables in a folder that all nodes see; there it is {job.tables}",
        )


def _recorded(folder: Where, job: Job) -> Record | None:
    """The record that a worker wrote that was lost before it could say so."""
    found = dataset.part(folder, job.configuration.key)
    return found[0] if found else None


def _finished(future: Any, folder: Where, job: Job) -> Record:
    from distributed import KilledWorker

    if future.cancelled():
        raise DatasetError(f"{folder}: the scheduler was lost", "the same command: it goes on where it was")
    error = future.exception()
    if error is None:
        return sweep.record_of(job.configuration, future.result())
    if not isinstance(error, KilledWorker):
        raise error
    found = _recorded(folder, job)
    if found is None:
        said = {"status": "failed", "error": "its workers were lost, again and again"}
        found = sweep.record_of(job.configuration, said)
        dataset.append(folder, [found], part=job.configuration.key)
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """Holds this node: workers that share it take turns."""
    path = Path(tempfile.gettempdir()) / f"joulemeter-sweep-{os.getuid()}.lock"
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_workers(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if workers and not any(RESOURCE in each.get("resources", {}) for each in workers.values()):
        raise UsageError(
            f"none of the {len(workers)} workers offers the resource '{RESOURCE}'",
            f'dask worker SCHEDULER --nworkers 1 --nthreads 1 --resources "{RESOURCE}=1" on each node',
        )


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the scheduler at ``address``; raises UsageError where none answers."""
    from distributed import Client

    try:
        client = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(f"{address}: no Dask scheduler answers ({error})", "dask scheduler") from error
    with client:
        yield client


@contextmanager
def submitted(scheduler: Scheduler, nodes: Nodes) -> Iterator[Client]:
    """A client of workers that are jobs of a batch scheduler, one a node; the jobs end with the block.

    A job that ended before (its wall time, a node that failed) is submitted again.
    """
    from distributed import Client

    with (
        batch(scheduler, nodes) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
        _scaled(cluster, nodes.count),
    ):
        yield client


@contextmanager
def _scaled(cluster: Any, jobs: int) -> Iterator[None]:
    """Asks for so many jobs, again and again: Dask submits one that ended when it is asked next."""
    over = threading.Event()

    def ask() -> None:
        """Asks until told that it is over."""
        cluster.scale(jobs=jobs)
        while not over.wait(AGAIN_S):
            cluster.scale(jobs=jobs)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def batch(scheduler: Scheduler, nodes: Nodes) -> Any:
    """The dask-jobqueue cluster of ``nodes``; ``job_script()`` says what is submitted."""
    from dask.utils import parse_bytes
    from dask_jobqueue.pbs import PBSCluster, pbs_format_bytes_ceil
    from dask_jobqueue.slurm import SLURMCluster

    # To Dask a node is one core, for it is to do one run at a time; the scheduler is asked for all of them.
    kinds = {"slurm": SLURMCluster, "pbs": PBSCluster}
    alone = {"slurm": "--exclusive", "pbs": "-l place=excl"}
    memory = pbs_format_bytes_ceil(parse_bytes(nodes.memory))  # type: ignore[no-untyped-call]
    node: dict[Scheduler, dict[str, Any]] = {
        "slurm": {"job_cpu": nodes.cores},
        "pbs": {"resource_spec": f"select=1:ncpus={nodes.cores}:mem={memory}"},
    }
    return kinds[scheduler](
        **node[scheduler],
        cores=1,
        processes=1,
        memory=nodes.memory,
        walltime=nodes.walltime,
        queue=nodes.queue,
        account=nodes.account,
        worker_extra_args=["--resources", f"{RESOURCE}=1"],
        job_extra_directives=[alone[scheduler]],
        scheduler_options={"dashboard_address": ":0"},
    )
