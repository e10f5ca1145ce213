"""Not a character of a stream is lost or doubled for any reader, whatever dies on the way."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.queue.direct import DirectApi
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import ReportItem, ReportResult
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, Stream, Worker
from tests.support.engine import Engine
from tests.support.renewed import Renewed

STREAMS = 1000 if os.environ.get("WEEKLY") else 40
LEASE_SECONDS = 2
ALPHABET = "abc äöü€ 🌍\n"


class Faulty(WorkerQueue):
    """Reports get lost, or their answers do, or they arrive a second time; a dead one is silent."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        assert isinstance(engine.database, Renewed)
        api = DirectApi(engine.database.url, schema="public")
        super().__init__(scratch_settings(engine.database.gateway.url), api=api)
        self.settings = scratch_settings(engine.database.gateway.url)
        self.is_dead = False
        self._chance = chance

    async def call(self, function: str, arguments: Any, **how: Any) -> Any:
        """Nothing comes from a killed worker."""
        if self.is_dead:
            raise QueueUnavailable("the worker is dead")
        return await super().call(function, arguments, **how)

    async def report(self, items: Sequence[ReportItem]) -> list[ReportResult]:
        fault = self._chance.choice(("", "", "", "lost", "unanswered", "doubled"))
        if fault == "lost":
            raise QueueUnavailable("the request was lost")
        if fault == "doubled":
            await super().report(items)
        results = await super().report(items)
        if fault == "unanswered":
            raise QueueUnavailable("the answer was lost")
        return results


class Reader:
    """Reads one stream as a client does, beginning when it likes."""

    def __init__(self, engine: Engine, job_id: str) -> None:
        self.engine, self.job_id = engine, job_id
        self.attempt, self.text = 0, ""

    def read(self) -> str:
        """Read on to the end of what is there; the job's status."""
        while True:
            page = self.engine.rpc(
                "job_output", p_job_id=self.job_id, p_stream="reply", p_from=len(self.text)
            )
            if page["attempt"] == self.attempt:
                assert page["from"] == len(self.text)
                self.text += page.get("text", "")
                if not page["more"]:
                    return str(page["status"])
            else:
                assert page["attempt"] > self.attempt, "no attempt comes back"
                self.attempt, self.text = page["attempt"], ""


def registry() -> Registry:
    """The one processor."""
    made = Registry()

    @made.processor("reply", payload=dict, lease=LEASE_SECONDS, max_attempts=50)
    async def reply(job: Job[dict[str, Any]], ctx: JobContext) -> str:
        """Say a plan in a step, then as many words as a model does; no attempt says the same."""
        chance = random.Random()

        async def say(words: Stream, count: int) -> str:
            for _ in range(count):
                words.write("".join(chance.choices(ALPHABET, k=chance.randint(1, 9))))
                await asyncio.sleep(chance.random() * 0.04)
            return words.text

        async with ctx.stream("reply") as words:
            plan = await ctx.step("plan", lambda: say(words, 20))
            assert words.text == plan, "what a finished step said is kept"
            await say(words, 60)
        return words.text

    return made


async def work(engine: Engine, chance: random.Random, ended: Callable[[], bool]) -> None:
    """By workers that are killed: silent from one moment to the next, their leases expire."""
    for kills in (1, 1, 0):
        queue = Faulty(engine, chance)
        worker = Worker(queue.settings, registry=registry(), queue=queue)
        task = asyncio.create_task(worker.run_forever(poll_seconds=0.05))
        if kills:
            await asyncio.sleep(1 + chance.random())
            queue.is_dead = True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            while not await asyncio.to_thread(ended):  # noqa: ASYNC110 - it is asked by reading
                await asyncio.sleep(0.05)
            worker.stop()
            await task
        await worker.aclose()


@pytest.mark.weekly
@pytest.mark.timeout(900)
def test_every_reader_has_every_character_of_the_attempt_that_completed(engine: Engine) -> None:
    """With workers killed in mid-sentence, lost and doubled reports, and readers that come late."""
    chance = random.Random(85)
    engine.rpc("set_settings", p_settings={"lost_attempts_max": 50})
    engine.register("reply", lease_seconds=LEASE_SECONDS, max_attempts=50)
    job_ids = engine.enqueue_many(STREAMS, job_type="reply")
    readers: list[Reader] = []

    with engine.beside() as other:

        def ended() -> bool:
            for job_id in chance.sample(job_ids, 5):  # early, in the middle, late
                readers.append(Reader(other, job_id))
            statuses = [reader.read() for reader in chance.sample(readers, min(len(readers), 40))]
            assert "failed" not in statuses
            return not other.one("select count(*) from public.jobs where finished_at is null")

        asyncio.run(work(engine, chance, ended))
    readers += [Reader(engine, job_id) for job_id in job_ids]
    said = dict(engine.rows("select id::text, result #>> '{}' from public.jobs"))
    for stage in ("as pieces", "as one row"):
        for reader in [*readers, *(Reader(engine, job_id) for job_id in job_ids)]:
            reader.engine = engine
            assert reader.read() == "completed"
            assert reader.text == said[reader.job_id], stage
        engine.advance(61)
        engine.maintain()
    assert engine.one("select count(*) from queue.pieces") == 0
    assert engine.one("select max(attempt) from queue.outputs") > 1, "some began again"
