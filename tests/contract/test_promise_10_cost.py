"""Waiting and ended jobs make no call more expensive. A worker run without jobs makes one query."""

import uuid
from typing import Any

import pytest

from minutehand.worker import Job, JobContext
from tests.contract.observed import lease_blocks
from tests.support.engine import ACME, GLOBEX, Engine
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping

pytestmark = pytest.mark.fresh


def test_a_lease_that_finds_nothing_reads_a_handful_and_writes_nothing(engine: Engine) -> None:
    """A lease call that finds no job reads few blocks and writes nothing.

    Otherwise idle workers would use up transaction ids and fill the write-ahead log.
    """
    engine.stop_clock()
    tick = str(uuid.uuid4())
    engine.lease_call(1, tick_id=tick)
    engine.run("vacuum analyze")

    assert lease_blocks(engine) <= 80
    engine.run("begin")
    for call in range(2, 12):
        assert engine.lease_call(1, tick_id=tick, call=call)["leases"] == []
    assert engine.one("select pg_current_xact_id_if_assigned()") is None
    engine.run("rollback")


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_run_with_one_job_is_two_calls_and_an_idle_one_is_one(jobs: int) -> None:
    """On Lambda, each round trip costs money."""
    queue = ModelQueue([Row("1", {})] * jobs)

    async def work(job: Job[Any], ctx: JobContext) -> None: ...

    async def run() -> None:
        await queue.worker(work, most=3).tick(budget_seconds=60)

    leaping(run())

    assert queue.calls == ["lease", "settle"][: jobs + 1]


def size(engine: Engine) -> int:
    """Return the total size of the project's tables and indexes after a vacuum."""
    engine.run("vacuum full")
    sizes = (
        "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r'"
        " and relnamespace in ('public'::regnamespace, 'queue'::regnamespace)"
    )
    return engine.one(sizes)


def test_a_completed_default_job_keeps_few_bytes(engine: Engine) -> None:
    before = size(engine)
    for number in range(4):
        items = [
            {"job_type": "work", "payload": {"account_id": str(uuid.uuid4()), "n": n}}
            for n in range(1000)
        ]
        workspace = (ACME, GLOBEX)[number % 2]
        engine.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=items, p_return="ids")
        while leases := engine.lease(100):
            engine.complete(leases, result={"ok": True})
    for _ in range(30):
        engine.elapse(3600)

    assert (size(engine) - before) / 4000 <= 500
