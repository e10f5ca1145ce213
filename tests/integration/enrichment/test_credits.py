"""Credits are counted once per paid call, whatever happens between the call and its record."""

from __future__ import annotations

import asyncio

import pytest

from minutehand.queue.errors import LeaseLost
from tests.integration.enrichment.conftest import INITECH, Office
from tests.support.functions import lease
from tests.support.misbehaving import Fault
from tests.unit.enrichment.apollo_server import ApolloServer


async def test_a_crash_after_the_call_was_recorded_does_not_pay_twice(
    online: Office, apollo: ApolloServer
) -> None:
    """The next attempt takes the answer from the ledger."""
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})

    with online.accounts_refusing():
        await online.tick()
        broken = online.project.row(job_id)
    online.make_due(job_id)
    await online.tick()

    assert (broken["status"], broken["attempts"]) == ("pending", 1)
    assert online.project.row(job_id)["status"] == "completed"
    assert online.account()["enriched_at"] is not None
    assert len(apollo.seen) == 1
    assert (online.credits(), apollo.credits) == (1, 99)


async def test_a_refused_call_leaves_no_trace_in_the_ledger(
    online: Office, apollo: ApolloServer
) -> None:
    """Apollo did not charge it, so nothing is uncertain."""
    apollo.faults = [Fault(429, {}, {"retry-after": "60"})]

    await online.run("enrich_account", {"account_id": INITECH})

    assert online.project.rows("select * from enrichment.calls") == []


async def begun(office: Office) -> tuple[str, int]:
    """A job that is held, with its call begun."""
    job_id = await office.enqueue("enrich_account", {"account_id": INITECH})
    fence: int = lease(office.project.database, job_id)["fence"]
    assert await office.enrichment.store.begin_call(job_id, fence, "apollo") is None
    return job_id, fence


def lease_again(office: Office, job_id: str) -> None:
    """Another worker holds the job now."""
    office.project.run_sql(
        "with next as (update public.jobs set fence = fence + 1 where id = %s returning id)"
        " update queue.leases set fence = fence + 1 where job_id in (select id from next)",
        job_id,
    )


async def test_recording_an_answer_is_counted_once_however_often_it_is_sent(
    online: Office,
) -> None:
    """The Data API client repeats calls whose answer was lost."""
    job_id, fence = await begun(online)
    store = online.enrichment.store

    for _ in range(3):
        await store.finish_call(job_id, fence, "apollo", {"credits": 1}, credits=1)
    await asyncio.gather(
        *(store.finish_call(job_id, fence, "apollo", {}, credits=1) for _ in range(5))
    )

    assert online.credits() == 1


async def test_a_zombie_neither_calls_nor_writes(online: Office) -> None:
    """Only the present holder of the lease may spend money or touch the account."""
    job_id, fence = await begun(online)
    store = online.enrichment.store
    lease_again(online, job_id)
    before = online.account()

    with pytest.raises(LeaseLost):
        await store.begin_call(job_id, fence, "apollo")
    with pytest.raises(LeaseLost):
        await store.apply(
            job_id, fence, "account", before["id"], seen={}, fields={"city": "Ulm"}, metadata={}
        )

    assert online.account() == before


async def test_an_update_sent_twice_shows_the_same_both_times(online: Office) -> None:
    """The client repeats calls whose answer was lost; that is no edit by a person."""
    job_id, fence = await begun(online)
    store, before = online.enrichment.store, online.account()
    seen = {"city": before["city"], "country": before["country"]}
    fields = {"city": "Ulm", "country": "Germany"}

    answers = [
        await store.apply(
            job_id, fence, "account", before["id"], seen=seen, fields=fields, metadata={}
        )
        for _ in range(2)
    ]

    assert [answer.updated for answer in answers] == [["city", "country"]] * 2
    assert [answer.kept for answer in answers] == [[], []]
