"""SIGKILL in the middle: no lost job, no double charge, no double row."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import psutil
import pytest

from tests.integration.enrichment.conftest import BUCKET, INITECH, Office
from tests.support.killable import Killable, until
from tests.support.misbehaving import Fault
from tests.support.project import ACME
from tests.unit.enrichment.apollo_server import KEY, ApolloServer


@contextmanager
def workers_of(office: Office) -> Iterator[Killable]:
    """Workers that die, with the real wiring."""
    settings = office.settings
    with Killable(
        office.project,
        module="tests.integration.enrichment.worker_process",
        SEALING_KEY_FILE=settings.sealing_key_file,
        UPLOADS_BUCKET=BUCKET,
        AWS_ENDPOINT_URL=settings.aws_endpoint_url,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        MINUTEHAND_APPS="minutehand.apps.enrichment",
        **settings.environ,
    ) as made:
        yield made


@pytest.fixture
def killable(office: Office) -> Iterator[Killable]:
    """Workers whose Apollo is offline."""
    with workers_of(office) as made:
        yield made


async def test_a_worker_killed_in_its_call_is_followed_by_one_that_pays_once(
    online: Office, apollo: ApolloServer
) -> None:
    """The call was never answered, so it is not counted; the second one is."""
    stored = await online.call(
        "PUT", f"/api/workspaces/{ACME}/settings", json={"apollo_api_key": KEY}
    )
    assert stored.status_code == 200, stored.text
    apollo.faults = [Fault(hang=True)]
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})
    with workers_of(online) as killable:
        killable.start()
        await asyncio.wait_for(apollo.called.wait(), 120)
        killable.kill()

        killable.start()
        await until(lambda: online.project.row(job_id)["status"] == "completed")

    calls = online.project.rows("select credits from enrichment.calls order by started_at")
    assert online.project.row(job_id)["attempts"] == 2
    assert online.project.event_types(job_id).count("completed") == 1
    assert [call["credits"] for call in calls] == [None, 1]
    assert online.credits() == 1


@pytest.fixture
def bucket(aws: str, office: Office) -> None:
    """The uploads bucket."""
    s3 = boto3.client("s3", endpoint_url=aws, region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    s3.close()


async def hand_in(office: Office, data: bytes) -> tuple[str, str]:
    """Upload a file; the ids of its job and its import."""
    answer = await office.call(
        "POST",
        "/api/accounts/import",
        data={"workspace_id": ACME},
        files={"file": ("list.csv", data, "text/csv")},
    )
    return answer.json()["job"]["id"], answer.json()["import"]["id"]


def rows_read(office: Office, import_id: str) -> int:
    """Where the import stands."""
    [found] = office.project.rows(
        "select rows_read from public.account_imports where id = %s", import_id
    )
    count: int = found["rows_read"]
    return count


@pytest.mark.slow
@pytest.mark.timeout(600)  # four workers start, one after the other
@pytest.mark.usefixtures("bucket")
async def test_an_import_killed_again_and_again_stores_each_row_once(
    office: Office, killable: Killable
) -> None:
    """Wherever the kill falls, the next worker reads on from the last stored batch."""
    rows = 20_000
    data = b"name,domain\n" + b"".join(b"C %d,c%d.example\n" % (n, n) for n in range(rows))
    job_id, import_id = await hand_in(office, data)
    office.project.run_sql("update public.jobs set max_attempts = 20 where id = %s", job_id)

    mark = 0
    for _ in range(3):
        killable.start()
        # a quick worker beside a slow test may have read all
        await until(lambda: rows_read(office, import_id) > min(mark + 1500, rows - 1))  # noqa: B023
        killable.kill()
        mark = rows_read(office, import_id)
    killable.start()
    await until(lambda: office.project.row(job_id)["status"] == "completed")

    job = office.project.row(job_id)
    made = office.project.rows(
        "select count(*) as n, count(distinct domain) as different from public.accounts"
        " where domain like 'c%%.example' and workspace_id = %s",
        ACME,
    )
    assert job["attempts"] >= 2
    assert job["result"]["rows_read"] == job["result"]["rows_created"] == rows
    assert made == [{"n": rows, "different": rows}]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("bucket")
async def test_a_hundred_thousand_rows_take_bounded_memory(
    office: Office, killable: Killable
) -> None:
    """The worker grows by far less than the file is long, once it is warm."""
    rows = 100_000
    filler = b"x" * 280
    data = b"name,domain,notes\n" + b"".join(
        b"C %d,c%d.example,%s\n" % (n, n, filler) for n in range(rows)
    )
    job_id, import_id = await hand_in(office, data)

    killable.start()
    await until(lambda: rows_read(office, import_id) > 10_000)
    assert killable.process is not None
    worker = psutil.Process(killable.process.pid)
    warm = worker.memory_info().rss
    await until(lambda: office.project.row(job_id)["status"] == "completed", seconds=500)

    assert office.project.row(job_id)["result"]["rows_created"] == rows
    assert len(data) > 30_000_000
    assert worker.memory_info().rss - warm < 10_000_000
