"""Waiting and ended jobs make no call more expensive. A worker run without jobs makes one query."""

import uuid
from typing import Any

import httpx
import pytest

from minutehand.queue.data_api import DataApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Job, JobContext, Registry, Worker
from tests.contract.observed import lease_blocks
from tests.support.engine import ACME, GLOBEX, Engine
from tests.support.project import Project

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


async def test_a_run_with_one_job_is_two_calls(engine: Engine, project: Project) -> None:
    """A worker run with one job makes two calls, and a run without jobs makes one.

    On Lambda, each round trip costs money.
    """
    sent: list[str] = []
    bodies: set[bytes] = set()

    class Noting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            name, body = request.url.path.rpartition("/")[2], await request.aread()
            if body not in bodies:  # a repeat after a lost response is not counted
                sent.append(name)
            bodies.add(body)
            return await super().handle_async_request(request)

    async def work(job: Job[Any], ctx: JobContext) -> None: ...

    registry = Registry()
    registry.processor("work", payload=dict)(work)
    api = DataApi(project.settings.supabase_url, transport=Noting())
    queue = WorkerQueue(project.settings, api=api)
    worker = Worker(project.settings, registry=registry, queue=queue, most=3)
    engine.stop_clock()
    for jobs, seconds in ((1, 0), (1, 0), (0, 0), (1, 60)):
        engine.enqueue_many(jobs)
        engine.maintain()
        engine.advance(seconds)  # after 60 seconds, maintenance is due
        await worker.tick(budget_seconds=60)
    await worker.aclose()

    a_run = ["lease_jobs", "settle_jobs"]
    assert sent[:6] == ["register_job_types", *a_run, *a_run, "lease_jobs"]
    assert sorted(sent[6:])[-2:] == ["run_maintenance", "settle_jobs"]  # sent[6] may be a lease
    assert engine.one("select summary -> 'completed' from queue.workers") == 1


def size(engine: Engine) -> int:
    """Return the total size of the project's tables and indexes after a vacuum."""
    engine.run("vacuum full")
    sizes = (
        "select sum(pg_total_relation_size(oid)) from pg_class where relkind = 'r'"
        " and relnamespace in ('public'::regnamespace, 'queue'::regnamespace)"
    )
    return int(engine.one(sizes))


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
