"""
`--on ray`: the same rows, answered by copies of the model on a Ray cluster (the extra `ray`).

One actor holds one copy. The driver, the process that reads and writes, hands out small batches of texts, two
at a time to each copy, and is the only one that knows of files and the journal. A copy that dies is
replaced; what it was asked is asked again, text by text, and a text that kills its copy alone three times is
that row's error.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from llmcli import engines
from llmcli.engines.base import EngineInfo
from llmcli.errors import EngineCrashed, LlmError, ModelError, UsageError
from llmcli.messages import Prompt
from llmcli.rows.answers import decode, encode
from llmcli.rows.job import Job
from llmcli.tasks import Result, run_tasks

BATCH = 32  # texts; small enough that a death costs little, large enough that Ray costs little
BATCHES = 2  # at a time for each copy: the engine has work while an answer travels
ATTEMPTS = 3  # of a text alone, and of copies before any answer

Encoded = tuple[int, bytes]


@dataclass(frozen=True)
class Batch:
    """Texts with their positions, and how often they were asked in vain."""

    texts: tuple[tuple[int, str], ...]
    attempts: int = 0


class Copy:
    """One copy of the model: what runs in the actor. Errors are returned as values: Ray would wrap them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._error: LlmError | None = None
        try:
            file = None
            if engines.engine_of(job.model) is None:
                from llmcli.models.resolve import resolve

                file = resolve(job.model)
            self._engine = engines.open_engine(job.model, job.engine, file)
        except LlmError as error:
            self._error = error

    def about(self) -> tuple[EngineInfo | None, Encoded | None]:
        """Who answers, or why nobody does."""
        if self._error is not None:
            return None, encode(self._error)
        return self._engine.info, None

    def count(self, items: Sequence[Prompt | str]) -> list[int]:
        """Tokens of each item."""
        return self._engine.count_tokens(items)

    def answer(self, texts: Sequence[str]) -> tuple[list[tuple[int, Encoded]], Encoded | None]:
        """(position, answer) of every text; and the error that ended it early, if one did."""
        job = self._job
        found: list[tuple[int, Encoded]] = []
        try:
            outcomes = run_tasks(
                job.template, texts, self._engine, job.values, job.sampling, truncate=job.truncate
            )
            for position, outcome in outcomes:
                found.append((position, encode(outcome)))
        except LlmError as error:
            return found, encode(error)
        return found, None


class RayWorkers:
    """
    Copies of a job's model on a cluster: the one at RAY_ADDRESS, or one that is started on this machine.

    `copies` None is one for each GPU, else one for each machine; `cpus` and `gpus` are of each copy,
    None shares what there is. Raises UsageError (no Ray, not enough of it), ModelError (4) that names the
    machine which lacks the model.
    """

    def __init__(
        self, job: Job, copies: int | None = None, cpus: float | None = None, gpus: float | None = None
    ) -> None:
        self._ray = _import_ray()
        self._started = not self._ray.is_initialized()
        if self._started:
            self._ray.init(
                address=os.environ.get("RAY_ADDRESS") or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        try:
            self._share = _share(self._ray, copies, cpus, gpus)
            self._job = _for_other_processes(job, self._share)
            self._alive: list[Any] = []
            self._deaths = 0
            self.info = self._start_all()
        except BaseException:
            self.close()
            raise

    def count_tokens(self, items: Sequence[Prompt | str]) -> list[int]:
        """As the first copy counts them."""
        counts: list[int] = self._ray.get(self._alive[0].count.remote(list(items)))
        return counts

    def answer(self, texts: Iterable[str]) -> Iterator[tuple[int, Result | LlmError]]:
        """(position, answer) in the order in which batches come back."""
        numbered = iter(enumerate(texts))
        again: deque[Batch] = deque()
        busy: dict[Any, tuple[Any, Batch]] = {}
        while True:
            self._hand_out(numbered, again, busy)
            if not busy:
                return
            done, _ = self._ray.wait(list(busy), num_returns=1)
            copy, batch = busy.pop(done[0])
            try:
                answers, fatal = self._ray.get(done[0])
            except self._ray.exceptions.RayActorError:
                self._replace(copy, blamed=len(batch.texts) == 1)
                yield from _ask_again(batch, again)
                continue
            self._deaths = 0
            for index, answer in answers:
                yield batch.texts[index][0], decode(*answer)
            if fatal is not None:
                raise _as_error(decode(*fatal))

    def _hand_out(
        self, numbered: Iterator[tuple[int, str]], again: deque[Batch], busy: dict[Any, tuple[Any, Batch]]
    ) -> None:
        """Give every copy something to do, as long as there is something."""
        for copy in self._alive:
            while sum(other is copy for other, _ in busy.values()) < BATCHES:
                batch = again.popleft() if again else Batch(tuple(islice(numbered, BATCH)))
                if not batch.texts:
                    return
                task = copy.answer.remote([text for _, text in batch.texts])
                busy[task] = (copy, batch)

    def _replace(self, copy: Any, blamed: bool) -> None:
        """
        A copy has died: start another in its place, unless they die before they can answer.

        `blamed`: on the only text that it had, whose error it becomes; the copies are well.
        """
        if copy not in self._alive:
            return  # its other batch told us already
        self._alive.remove(copy)
        self._deaths += not blamed
        if self._deaths >= ATTEMPTS:
            raise EngineCrashed(f"{self._deaths} copies of the model died one after the other")
        self._alive.append(self._checked(self._start()))

    def _start_all(self) -> EngineInfo:
        started = [self._start() for _ in range(self._share.copies)]
        self._alive = started
        infos = [self._about(copy) for copy in started]
        first = infos[0]
        for info in infos:
            if (info.model, info.sha256) != (first.model, first.sha256):
                raise ModelError(
                    f"the machines of the cluster have different models: {first.model} {first.sha256[:12]}, "
                    f"{info.model} {info.sha256[:12]}",
                    hint="copy one file to all of them",
                )
        return first

    def _start(self) -> Any:
        share = self._share
        actor = self._ray.remote(Copy).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_concurrency=BATCHES, max_restarts=0
        )
        return actor.remote(self._job)

    def _checked(self, copy: Any) -> Any:
        self._about(copy)
        return copy

    def _about(self, copy: Any) -> EngineInfo:
        try:
            info, error = self._ray.get(copy.about.remote())
        except self._ray.exceptions.RayError as failure:
            raise EngineCrashed(f"a copy of the model could not be started: {failure}") from failure
        if error is not None:
            known = _as_error(decode(*error))
            raise ModelError(
                f"a machine of the cluster cannot open {self._job.model}: {known.message}",
                hint="the model file must be at the same place on every machine",
            )
        assert isinstance(info, EngineInfo)
        return info

    def close(self) -> None:
        """End the copies, and the cluster where it was started here."""
        for copy in getattr(self, "_alive", []):
            self._ray.kill(copy)
        if self._started:
            self._ray.shutdown()


@dataclass(frozen=True)
class Share:
    """How many copies, and what each may use."""

    copies: int
    cpus: float
    gpus: float


def _share(ray: Any, copies: int | None, cpus: float | None, gpus: float | None) -> Share:
    """
    Divide what the cluster has.

    Raises UsageError where it has less than was asked for: Ray itself would wait for ever.
    """
    has = ray.cluster_resources()
    all_cpus, all_gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    copies = copies or int(all_gpus / (gpus or 1)) or machines
    chosen = Share(
        copies=copies,
        cpus=cpus if cpus is not None else _portion(all_cpus, copies),
        gpus=gpus if gpus is not None else _portion(all_gpus, copies),
    )
    for name, each, of in (("CPUs", chosen.cpus, all_cpus), ("GPUs", chosen.gpus, all_gpus)):
        if each * copies > of:
            raise UsageError(
                f"{copies} copies with {each:g} {name} each need more than the cluster's {of:g}",
                hint=f"fewer --copies, or fewer --{name.lower()}",
            )
    return chosen


def _portion(of: float, copies: int) -> float:
    """A copy's part; whole ones where there are enough, else a fraction."""
    return float(of // copies) or of / copies


def _for_other_processes(job: Job, share: Share) -> Job:
    """The job as another process opens it: absolute paths, as many threads as it has CPUs."""
    engine = msgspec.structs.replace(job.engine, started=job.engine.started or time.time())
    if engine.threads is None and share.cpus >= 1:
        engine = msgspec.structs.replace(engine, threads=int(share.cpus))
    prefix, colon, rest = job.model.partition(":")
    model = job.model
    if engines.engine_of(job.model) == "scripted":
        model = prefix + colon + str(Path(rest).absolute())
    elif engines.engine_of(job.model) is None and Path(job.model).is_file():
        model = str(Path(job.model).absolute())
    return replace(job, model=model, engine=engine, values=dict(job.values))


def _ask_again(batch: Batch, again: deque[Batch]) -> Iterator[tuple[int, LlmError]]:
    """What a dead copy was asked: each text alone; one that was alone too often is given up."""
    attempts = batch.attempts + 1 if len(batch.texts) == 1 else 0
    for position, text in batch.texts:
        if attempts >= ATTEMPTS:
            yield position, EngineCrashed(f"the copy of the model that was asked this died, {attempts} times")
        else:
            again.append(Batch(((position, text),), attempts))


def _as_error(outcome: Result | LlmError) -> LlmError:
    assert isinstance(outcome, LlmError)
    return outcome


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError("--on ray needs Ray", hint='pip install "llmcli[ray]"') from None
    return ray
