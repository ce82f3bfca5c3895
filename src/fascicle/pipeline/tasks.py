"""Jobs cut into tasks: done once each, by this process, by worker processes, or by a Dask cluster.

A task is a name and an argument. What it does must be idempotent: a task that was done but not noted is done again. The
journal is written by the process that runs the job only. Workers prepare themselves once (open a volume, load their
kernels) and then take task after task, so a task's argument should be small, and its result (kept in the journal)
something JSON can hold.

Example:

    def prepare(spec: SourceSpec) -> Pyramid: ...
    def work(volume: Pyramid, box: list[int]) -> int: ...
    run_tasks([Task("box 0", [0, 0, 0])], Job(prepare, spec, work), journal, workers=2)
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fascicle.errors import FascicleError
from fascicle.pipeline.futures import ended_futures
from fascicle.pipeline.journal import Journal

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""
AHEAD = 2
"""Tasks that wait for each worker."""


class TaskError(FascicleError):
    """A task failed; the message names it and says why. Tasks that were done before are noted."""


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a job."""

    name: str
    argument: Any
    weight: int = 1
    """Its part in what progress counts, for example voxels."""


@dataclass(frozen=True, slots=True)
class Job:
    """What workers do: `work(prepare(setting), argument)`. All three can be pickled; functions are those of modules."""

    prepare: Callable[[Any], Any]
    setting: Any
    work: Callable[[Any, Any], Any]


def run_tasks(
    tasks: Sequence[Task],
    job: Job,
    journal: Journal | None,
    *,
    stage: str = "",
    workers: int = 1,
    scheduler: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Do what the journal does not know as done; the results by the names of the tasks, as JSON gives them back.

    `workers` processes of this machine (1: this process itself), or those of the Dask scheduler at the address
    `scheduler`. Raises TaskError with the first failure, after the tasks that run meanwhile have ended.
    """
    results = {task.name: journal.done[task.name] for task in tasks if journal and task.name in journal.done}
    missing = [task for task in tasks if task.name not in results]
    total, done = sum(task.weight for task in tasks), sum(task.weight for task in tasks if task.name in results)
    if progress:
        progress(stage, done, total)
    for task, result in _outcomes(missing, job, workers, scheduler):
        if journal:
            journal.add(task.name, result)
        results[task.name] = result
        done += task.weight
        if progress:
            progress(stage, done, total)
    return results


def usual_workers() -> int:
    """As many workers as this process may use processors."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not everywhere
        return os.cpu_count() or 1


def _outcomes(tasks: Sequence[Task], job: Job, workers: int, scheduler: str) -> Iterator[tuple[Task, Any]]:
    if not tasks:
        return iter(())
    if scheduler:
        return _by_dask(tasks, job, scheduler)
    if workers > 1 and len(tasks) > 1:
        return _by_processes(tasks, job, min(workers, len(tasks)))
    return _here(tasks, job)


def _here(tasks: Iterable[Task], job: Job) -> Iterator[tuple[Task, Any]]:
    prepared = job.prepare(job.setting)
    try:
        for task in tasks:
            try:
                result = job.work(prepared, task.argument)
            except Exception as error:
                raise _failure(task, error) from error
            yield task, result
    finally:
        _close(prepared)


def _by_processes(tasks: Sequence[Task], job: Job, workers: int) -> Iterator[tuple[Task, Any]]:
    # spawned, not forked: threads and open stores do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin_worker, (job,)) as pool:
        ended = ended_futures(tasks, lambda task: pool.submit(_work_in_worker, task.argument), 1 + AHEAD * workers)
        with closing(ended):
            for task, future in ended:
                try:
                    result = future.result()
                except Exception as error:
                    raise _failure(task, error) from error
                yield task, result


_worker: list[tuple[Job, Any]] = []
"""What this worker process has prepared."""


def _begin_worker(job: Job) -> None:
    _worker[:] = [(job, job.prepare(job.setting))]


def _work_in_worker(argument: Any) -> Any:
    job, prepared = _worker[0]
    return job.work(prepared, argument)


def _by_dask(tasks: Sequence[Task], job: Job, scheduler: str) -> Iterator[tuple[Task, Any]]:
    try:
        cluster: Any = import_module("distributed")
    except ImportError:
        raise TaskError("a Dask scheduler needs the package distributed: pip install 'fascicle[dask]'") from None
    try:
        client = cluster.Client(scheduler, timeout="20s")
    except Exception as error:
        raise TaskError(f"the Dask scheduler {scheduler} cannot be reached: {error}") from None
    with client:
        shared = client.scatter(job, broadcast=True)
        futures = {client.submit(_work_on_cluster, shared, task.argument, pure=False): task for task in tasks}
        for future in cluster.as_completed(list(futures)):
            task = futures.pop(future)
            try:
                result = future.result()
            except Exception as error:
                client.cancel(list(futures))
                raise _failure(task, error) from error
            yield task, result


def _work_on_cluster(job: Job, argument: Any) -> Any:
    """What a worker of a cluster has prepared is kept for the next task of the same job."""
    if not _worker or _worker[0][0] != job:
        for _, prepared in _worker:
            _close(prepared)
        _begin_worker(job)
    return _work_in_worker(argument)


def _close(prepared: Any) -> None:
    close = getattr(prepared, "close", None)
    if callable(close):
        close()


def _failure(task: Task, error: Exception) -> TaskError:
    if isinstance(error, FascicleError):
        return TaskError(f"{task.name}: {error.message}")
    return TaskError(f"{task.name} failed: {type(error).__name__}: {error}")
