"""Signed job types end to end: one receipt a job, whatever dies between signing and settling."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.docs import render
from minutehand.functions.worker.processors import load_processors
from minutehand.install.rewrite import Schemas
from minutehand.queue import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.signing.canonical import digest_of
from minutehand.signing.jobs import ResultSigner
from minutehand.signing.verify import read_bundle, read_keys, verify, verify_chain
from minutehand.worker import (
    Call,
    Fail,
    Job,
    JobContext,
    NewJob,
    Registry,
    TickOptions,
    Worker,
    default_registry,
)
from minutehand.worker.testing import drain
from tests.support.command import Run
from tests.support.paths import ROOT
from tests.support.project import ACME, Project

PAGE = ROOT / "shared" / "minutehand" / "signing" / "README.md"


class Reading(BaseModel):
    """Any payload."""

    n: float = 1


@pytest.fixture
def project(project: Project, tmp_path: Path) -> Project:
    """One whose workers can seal keys."""
    keys = str(tmp_path / "sealing.json")
    project.settings = project.settings.model_copy(update={"sealing_key_file": keys})
    return project


@pytest.fixture
async def signer(project: Project) -> AsyncIterator[ResultSigner]:
    """What a worker puts around signed types."""
    made = ResultSigner(project.settings)
    yield made
    await made.aclose()


async def verdict(ada: UserQueue, job_id: str) -> str:
    """What a reader of the job's bundle finds, who has the public keys."""
    bundle, _ = read_bundle(json.dumps(await ada.receipt(job_id)))
    return verify(bundle, read_keys(await ada.signing_keys())).verdict


async def test_a_completed_job_has_a_receipt_and_its_parents_closes_over_it(
    project: Project, registry: Registry, worker: Worker, signer: ResultSigner, ada: UserQueue
) -> None:
    """Planned endings and failures have none; rotation and revocation leave what was signed."""

    @registry.processor("part", payload=Reading, signed=True)
    async def part(job: Job[Reading], ctx: JobContext) -> dict[str, Any] | Fail:
        """Give back what is asked for."""
        return Fail("negative") if job.payload.n < 0 else {"n": job.payload.n, "text": "ü\n"}

    @registry.processor("whole", payload=Reading, signed=True)
    async def whole(job: Job[Reading], ctx: JobContext) -> list[Any]:
        """Run three parts, one of which fails."""
        numbers = [{"n": n} for n in (0.1, 1e-7, -1)]
        return await ctx.map(numbers, "part", on_failed="return")

    registry.sign_with(lambda: signer)
    await worker.register()
    job = (await ada.enqueue(ACME, "whole", {})).job
    await drain(worker)

    bundle = await ada.receipt(job.id)
    assert await verdict(ada, job.id) == "passed"
    assert bundle["receipt"]["hashes"]["result"] == digest_of((await ada.get_job(job.id)).result)
    assert [each["receipt"] is None for each in bundle["receipt"]["children"]] == [
        each["status"] == "failed" for each in bundle["receipt"]["children"]
    ]
    assert [each["number"] for each in await ada.receipts(ACME)] == [1, 2, 3]
    project.run_sql("select public.retire_signing_key()")
    later = (await ada.enqueue(ACME, "part", {})).job
    await drain(worker)
    keys = await ada.signing_keys()
    assert len(keys["keys"]) == 2
    project.run_sql("select public.revoke_signing_key(%s)", bundle["receipt"]["key_id"])
    assert [await verdict(ada, each.id) for each in (job, later)] == ["passed", "passed"]
    chain = await ada.receipts(ACME)
    assert verify_chain(chain, read_keys(await ada.signing_keys())).verdict == "passed"


async def test_jobs_that_fail_or_are_cancelled_are_closed_in_the_same_chain(
    registry: Registry, worker: Worker, signer: ResultSigner, ada: UserQueue
) -> None:
    """No worker holds them by then; a payload that cannot be signed does not prevent it."""

    @registry.processor("strict", payload=Reading, signed=True)
    async def strict(job: Job[Reading], ctx: JobContext) -> int | Fail:
        """Take small numbers."""
        return 1 if job.payload.n < 9 else Fail("too large: ü")

    registry.sign_with(lambda: signer)
    registry.publisher("receipts", signer.close_ended)
    await worker.register()
    jobs = [(await ada.enqueue(ACME, "strict", {"n": n})).job for n in (1, 9, 2**60, 2)]
    await ada.cancel(jobs[3].id)
    await drain(worker)
    await signer.close_ended()

    verdicts = [await verdict(ada, job.id) for job in jobs]
    chain = await ada.receipts(ACME)
    assert verdicts == ["passed"] * 4
    assert sorted(each.get("status", "") for each in chain) == ["", "cancelled", "failed", "failed"]
    assert verify_chain(chain, read_keys(await ada.signing_keys())).verdict == "passed"


async def test_a_death_between_signing_and_settling_leaves_one_receipt_and_one_result(
    project: Project, registry: Registry, worker: Worker, signer: ResultSigner, ada: UserQueue
) -> None:
    """The next attempt settles what was signed; the processor does not run again."""
    runs: list[int] = []

    @registry.processor("count", payload=Reading, signed=True, backoff=None)
    async def count(job: Job[Reading], ctx: JobContext) -> int:
        """Say how often it ran."""
        runs.append(job.attempt)
        return len(runs)

    async def dying(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        returned = await signer(job, ctx, call)
        if job.attempt == 1:
            raise RuntimeError("died before the settlement")
        return returned

    registry.sign_with(lambda: dying)
    await worker.register()
    job = (await ada.enqueue(ACME, "count", {})).job
    await worker.tick(budget_seconds=120)
    [signed] = await ada.receipts(ACME)
    project.make_due()
    await drain(worker)

    ended = await ada.get_job(job.id)
    assert (ended.status, ended.result, runs) == ("completed", 1, [1])
    assert await ada.receipts(ACME) == [signed]
    assert await verdict(ada, job.id) == "passed"


async def test_workers_that_race_for_the_chain_leave_it_whole(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Each of two processes with what the other does not know."""

    async def echo(job: Job[Reading], ctx: JobContext) -> float:
        """Give back the number."""
        return job.payload.n

    other = Registry()
    signers = []
    for each in (registry, other):
        each.processor("echo", payload=Reading, signed=True)(echo)
        signers.append(ResultSigner(project.settings))
        each.sign_with(_given(signers[-1]))
    beside = Worker(project.settings, registry=other, options=TickOptions(linger_seconds=0))
    await worker.register()
    wanted = [NewJob(job_type="echo", payload={"n": n}) for n in range(12)]
    jobs = await ada.enqueue_many(ACME, wanted)
    await asyncio.gather(*(each.tick(budget_seconds=120) for each in (worker, beside)))
    await drain(worker)

    chain = await ada.receipts(ACME)
    assert [each["number"] for each in chain] == list(range(1, 13))
    assert verify_chain(chain, read_keys(await ada.signing_keys())).verdict == "passed"
    assert {each["job_id"] for each in chain} == {made.job.id for made in jobs.jobs}
    for signer in signers:
        await signer.aclose()
    await beside.aclose()


async def test_a_number_that_json_does_not_keep_fails_the_job(
    registry: Registry, worker: Worker, signer: ResultSigner, ada: UserQueue
) -> None:
    """A receipt would say what no reader could compute."""

    @registry.processor("big", payload=Reading, signed=True)
    async def big(job: Job[Reading], ctx: JobContext) -> float:
        """Give a large number."""
        return 2**60 + 1 if job.payload.n == 1 else 1e300

    registry.sign_with(lambda: signer)
    await worker.register()
    jobs = [(await ada.enqueue(ACME, "big", {"n": n})).job for n in (1, 2)]
    await drain(worker)

    for job in jobs:
        ended = await ada.get_job(job.id)
        assert (ended.status, "cannot be signed" in str(ended.error_message)) == ("failed", True)
        with pytest.raises(QueueError) as refused:
            await ada.receipt(job.id)
        assert refused.value.word == "receipt_not_found"


async def test_the_page_does_what_it_says(
    project: Project,
    registry: Registry,
    worker: Worker,
    signer: ResultSigner,
    ada: UserQueue,
    tmp_path: Path,
) -> None:
    """Its processor, and the command on what its first two lines write."""
    text = render(PAGE.read_text("utf-8"), Schemas())
    python, shell = (
        re.findall(rf"```{name}\n(.*?)```", text, re.DOTALL)[0] for name in ("python", "sh")
    )
    module = ModuleType("page_of_a_test")
    exec(compile(python, "README.md", "exec"), module.__dict__)
    try:
        registry.add(default_registry.get("lab.convert"))
        loaded = load_processors(project.settings.model_copy(update={"apps": ()}))
        assert "receipts" in loaded.publishers  # it closes the jobs that fail
    finally:
        default_registry.forget(module.__name__)
    registry.sign_with(lambda: signer)
    await worker.register()
    job = (await ada.enqueue(ACME, "lab.convert", {"celsius": 36.6})).job
    await drain(worker)
    (tmp_path / "receipt.json").write_text(json.dumps(await ada.receipt(job.id)))
    (tmp_path / "keys.json").write_text(json.dumps(await ada.signing_keys()))

    *_, line = shell.splitlines()
    words = [str(tmp_path / word) if word.endswith(".json") else word for word in line.split()[1:]]
    assert "verified: " in Run()(*words).stdout


def _given(signer: ResultSigner) -> Callable[[], ResultSigner]:
    return lambda: signer
