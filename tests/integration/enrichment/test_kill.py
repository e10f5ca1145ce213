"""SIGKILL in the middle: no lost job, no double charge, no double row."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from minutehand_apps.enrichment.import_processor import BATCH_ROWS
from tests.integration.enrichment.conftest import BUCKET, INITECH, Office
from tests.support.killable import Killable, until
from tests.support.project import ACME
from tests.support.weekly import weekly


def environment_of(office: Office) -> dict[str, str | None]:
    """What worker processes read besides the project."""
    settings = office.settings
    return {
        "SEALING_KEY_FILE": settings.sealing_key_file,
        "UPLOADS_BUCKET": BUCKET,
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        **settings.environ,
    }


@pytest.fixture
def killable(office: Office) -> Iterator[Killable]:
    """Workers in processes of their own, whose Apollo is offline."""
    with Killable(office.project, "enrichment", **environment_of(office)) as made:
        yield made


async def test_workers_killed_in_each_stage_pay_once(online: Office) -> None:
    """A call that was never answered is not counted; the one that was is, once."""
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})

    async def ended() -> object:
        return online.project.row(job_id)["status"] == "completed"

    deaths = await online.survive("enrichment", ended, **environment_of(online))

    calls = online.project.rows("select credits from enrichment.calls order by started_at")
    assert online.project.event_types(job_id).count("completed") == 1
    assert [call["credits"] for call in calls if call["credits"] is not None] == [1]
    shown = (await online.call("GET", f"/api/workspaces/{ACME}/settings")).json()
    assert shown["enrichment_credits_used"] == 1
    assert shown["enrichment_calls_unanswered"] == len(calls) - 1 >= 1
    assert len(deaths) >= 3, deaths


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


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("bucket")
async def test_an_import_killed_behind_each_batch_stores_each_row_once(office: Office) -> None:
    """The next worker reads on from the last stored batch."""
    rows = 2_000
    names = ["".join(chr(97 + int(digit)) for digit in f"{n:04}") for n in range(rows)]
    data = "name,domain\n" + "".join(f"{name},{name}.kill.example\n" for name in names)
    job_id, _ = await hand_in(office, data.encode())

    async def ended() -> object:
        return office.project.row(job_id)["status"] == "completed"

    deaths = await office.survive("enrichment", ended, **environment_of(office))

    made = office.project.rows(
        "select count(*) as n, count(distinct domain) as different from public.accounts"
        " where domain like '%%.kill.example' and workspace_id = %s",
        ACME,
    )
    result = office.project.row(job_id)["result"]
    assert result["rows_read"] == result["rows_created"] == rows
    assert made == [{"n": rows, "different": rows}]
    assert len(deaths) >= rows / BATCH_ROWS, deaths


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("bucket")
async def test_many_rows_take_bounded_memory(office: Office, killable: Killable) -> None:
    """The worker grows by far less than the file is long, once it is warm."""
    rows = weekly(100_000, otherwise=30_000)
    filler = b"x" * (30_000_000 // rows)
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
