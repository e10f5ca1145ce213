"""What is told and measured when workers die: nothing lost, nothing measured twice, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.integration.beacon.conftest import ACME, Station
from tests.integration.beacon.provider import Provider
from tests.integration.webhooks.conftest import Endpoint
from tests.support.killable import Killable, until
from tests.support.project import Project

TOLD = ["beacon.receipt.issued", "beacon.run.finished"]


@pytest.fixture
def killable(project: Project) -> Iterator[Killable]:
    """Workers of this app and of webhooks that die."""
    keys = project.settings.sealing_key_file
    with Killable(project, "beacon", SEALING_KEY_FILE=keys) as made:
        yield made


@pytest.fixture
async def sink(station: Station) -> AsyncIterator[Endpoint]:
    """A subscriber to beacon's own events; its webhook goes with the test."""
    station.project.run_sql("delete from queue.outbox")
    station.project.run_sql("delete from queue.webhooks")
    async with Endpoint().open() as endpoint:
        station.project.run_sql(
            "insert into queue.webhooks (workspace_id, url, secret, event_types)"
            " values (%s, %s, 'whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=', %s)",
            ACME,
            endpoint.url,
            TOLD,
        )
        yield endpoint
    station.project.run_sql("delete from queue.webhooks")


def told(sink: Endpoint) -> list[tuple[str, Any]]:
    """Events as they arrived: type, and the receipt's number where there is one."""
    return [(r.event["type"], r.event["data"].get("number")) for r in sink.received]


def numbers(station: Station, run: dict[str, Any]) -> list[int]:
    """The numbers of a run's receipts."""
    return [row["number"] for row in station.chain() if str(row["run_id"]) == run["id"]]


async def test_receipts_are_told_in_the_order_of_the_chain(
    station: Station, provider: Provider, sink: Endpoint
) -> None:
    """Though a failing sink asks for each again: signed, under the same id, one after the other."""
    sink.answers = ["500 Oops", "200 OK", "503 Later"]
    run = await station.start(provider.url, regions=["a", "b", "c"], samples=1)
    for _ in range(6):
        await station.ended(run)
        station.make_due()

    first, second, third, last = numbers(station, run)
    issued, finished = TOLD
    assert told(sink) == [
        (issued, first), (issued, first), (issued, second), (issued, second), (issued, third),
        (issued, last), (finished, None),
    ]  # fmt: skip
    ids = [received.headers["webhook-id"] for received in sink.received]
    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert len(set(ids)) == 5
    assert all(r.is_signed_with("whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=") for r in sink.received)
    events = (await station.call("GET", f"/runs/{run['id']}/deliveries")).json()["events"]
    assert sorted(event["message_id"] for event in events) == sorted(set(ids))
    assert {d["status"] for event in events for d in event["deliveries"]} == {"completed"}


async def test_relays_side_by_side_deliver_each_event_once(
    station: Station, provider: Provider, sink: Endpoint
) -> None:
    """Two workers drain the same outbox at once."""
    run = await station.start(provider.url, regions=["a", "b", "c", "d"], samples=1)

    async with Station(station.project).open() as other:
        for _ in range(8):
            await asyncio.gather(
                station.worker.tick(budget_seconds=30), other.worker.tick(budget_seconds=30)
            )
    await station.ended(run)

    assert told(sink) == [
        *((TOLD[0], number) for number in numbers(station, run)), (TOLD[1], None)
    ]  # fmt: skip


async def test_a_relay_killed_after_delivering_delivers_again(
    station: Station, provider: Provider, sink: Endpoint, killable: Killable
) -> None:
    """The sink has the message, but nobody noted it: it comes again under the same id."""
    run = await station.start(provider.url, samples=1)
    sink.answers = [None]  # taken in, and the worker dies before it hears of it
    killable.start()
    await until(lambda: len(sink.received) == 1)
    killable.kill()
    killable.start()
    await until(lambda: len(sink.received) == 4)
    killable.kill()

    region, own = numbers(station, run)
    assert told(sink) == [(TOLD[0], region), (TOLD[0], region), (TOLD[0], own), (TOLD[1], None)]
    assert sink.received[0].headers["webhook-id"] == sink.received[1].headers["webhook-id"]


async def test_a_region_killed_half_way_goes_on_from_its_last_batch(
    station: Station, provider: Provider, killable: Killable
) -> None:
    """Finished batches are kept; of the one under way each sample is asked for again, once."""
    # one still on its way would be counted after the death
    provider.gate_after, provider.held = 140, 4
    run = await station.start(provider.url, samples=250, concurrency=4)
    killable.start()
    await asyncio.wait_for(provider.reached.wait(), 90)
    killable.kill()
    [stored] = station.project.rows(
        "select sum(jsonb_array_length(s.result #> '{value,samples,outcome}'))::int as samples"
        " from queue.steps as s join public.jobs as j on j.id = s.job_id"
        " where j.parent_id = %s and s.name like 'batch%%'",
        run["job_id"],
    )
    at_death = provider.requests
    provider.gate_after = None
    provider.gate.set()
    while (ended := await station.ended(run))["status"] == "running":
        station.make_due()

    [region] = ended["regions"]
    assert (ended["status"], region["statistics"]["count"]) == ("completed", 250)
    assert 100 <= stored["samples"] <= 140
    assert provider.requests - at_death == 250 - stored["samples"]
    [receipt, _] = [row for row in station.chain() if str(row["run_id"]) == run["id"]]
    assert receipt["payload"]["attempt"] == 2
    assert receipt["samples"]["started_ms"] == sorted(receipt["samples"]["started_ms"])
