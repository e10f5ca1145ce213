"""CSV imports from the upload to the error file, with crashes in between."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.queue.errors import LeaseLost
from minutehand.worker import Registry, TickOptions, Worker
from minutehand_apps.enrichment.import_processor import ImportProcessor
from minutehand_apps.enrichment.models import ImportAccounts
from tests.integration.enrichment.conftest import BOB, EVE, GLOBEX, INITECH, Office
from tests.support.functions import lease
from tests.support.project import ACME

pytestmark = pytest.mark.usefixtures("bucket")


def table(*rows: str, header: str = "name,domain,industry,employee_count") -> bytes:
    return "\n".join([header, *rows]).encode() + b"\n"


async def upload(
    office: Office, data: bytes, *, user: str = BOB, workspace: str = ACME, **fields: str
) -> httpx.Response:
    """Hand a file in as a browser's form does."""
    return await office.call(
        "POST",
        "/api/accounts/import",
        user=user,
        data={"workspace_id": workspace, **fields},
        files={"file": ("list.csv", data, "text/csv")},
    )


async def run(office: Office, data: bytes, **fields: str) -> dict[str, Any]:
    """Hand a file in, run a tick, and look at the import."""
    answer = await upload(office, data, **fields)
    assert answer.status_code == 201, answer.text
    await office.tick()
    told = await office.call("GET", f"/api/accounts/imports/{answer.json()['import']['id']}")
    found: dict[str, Any] = told.json()
    return found


def accounts(office: Office) -> dict[str, dict[str, Any]]:
    """Acme's accounts by domain."""
    rows = office.project.rows("select * from public.accounts where workspace_id = %s", ACME)
    return {row["domain"]: row for row in rows}


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    """Read, created, updated, failed."""
    read, created, updated, failed = (
        found[f"rows_{word}"] for word in ("read", "created", "updated", "failed")
    )
    return read, created, updated, failed


async def test_rows_become_accounts_and_known_domains_are_updated(office: Office) -> None:
    """Upsert by domain; a cell left empty does not wipe out what is there."""
    found = await run(
        office,
        table(
            "Acme Tools,https://www.Tools.example/,Tools,12",
            "Initech Inc,INITECH.example,,5000",
        ),
    )

    known = accounts(office)
    assert counts(found) == (2, 1, 1, 0)
    assert found["finished_at"] is not None
    assert known["tools.example"]["employee_count"] == 12
    assert known["initech.example"]["name"] == "Initech Inc"
    assert known["initech.example"]["employee_count"] == 5000
    assert str(known["initech.example"]["id"]) == INITECH


async def test_the_job_shows_its_progress_and_its_result(office: Office) -> None:
    """It is itself a job, followed like any other."""
    answer = await upload(office, table("A,a.example", "B,b.example"))
    await office.tick()

    job = office.project.row(answer.json()["job"]["id"])
    assert (job["job_type"], job["status"]) == ("import_accounts", "completed")
    assert job["progress"]["percentage"] == 100
    assert (job["result"]["rows_created"], job["result"]["errors_url"]) == (2, None)
    assert str(job["user_id"]) == BOB


async def test_a_domain_listed_twice_is_one_account(office: Office) -> None:
    """The later row wins, field by field."""
    found = await run(
        office, table("First,twice.example,Tools,5", "Second,TWICE.example,,9"), enrich="false"
    )

    account = accounts(office)["twice.example"]
    assert counts(found) == (2, 1, 1, 0)
    assert (account["name"], account["industry"], account["employee_count"]) == (
        "Second",
        "Tools",
        9,
    )


async def test_importing_the_same_file_again_changes_nothing(office: Office) -> None:
    """People upload twice."""
    data = table("A,a.example,X,1", "B,b.example,Y,2")
    await run(office, b"\xef\xbb\xbfsep=,\r\n\n" + data)  # as spreadsheets begin a file
    before = set(accounts(office))

    found = await run(office, data)

    assert counts(found) == (2, 0, 2, 0)
    assert set(accounts(office)) == before


async def test_bad_rows_are_left_out_and_can_be_downloaded(office: Office) -> None:
    """The good ones are in; the file says what to mend."""
    found = await run(
        office,
        table(
            "Good,good.example,,",
            "No domain,,Tools,",
            "Odd,odd.example,,many",
            "=cmd(),not a domain,,",
            'Open,"open.example,,',
            "Fine,fine.example,,",
        ),
    )

    answer = await office.call("GET", found["errors_url"], user=BOB)

    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert counts(found) == (6, 2, 0, 4)
    assert answer.headers["content-type"].startswith("text/csv")
    assert [(row["row"], row["field"], row["problem"]) for row in rows] == [
        ("2", "domain", "is missing"),
        ("3", "employee_count", "is not a number: many"),
        ("4", "domain", "is not a domain: not a domain"),
        ("5", "", "has a quote that is never closed"),
    ]
    assert rows[2]["line"] == "'=cmd(),not a domain,,"


async def test_an_import_can_ask_for_enrichment(office: Office) -> None:
    """One job per account, none doubled, all in the transaction of their batch."""
    await run(office, table("A,a.example", "Initech,initech.example"), enrich="true")

    jobs = office.project.rows(
        "select * from public.jobs where job_type = 'enrich_account' order by payload ->> 'domain'"
    )
    assert [job["payload"]["domain"] for job in jobs] == ["a.example", "initech.example"]
    assert {str(job["user_id"]) for job in jobs} == {BOB}


async def test_the_workspaces_switch_enriches_new_accounts_only(office: Office) -> None:
    """As for an account added by hand: updating one is no reason to pay again."""
    office.set_settings(apollo_auto_enrich=True)

    await run(office, table("A,a.example", "Initech,initech.example"))

    jobs = office.project.rows("select * from public.jobs where job_type = 'enrich_account'")
    assert [job["payload"]["domain"] for job in jobs] == ["a.example"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "The file is empty"),
        (b"name,city\nA,Ulm\n", "no domain column"),
        (b"PK\x03\x04\xff\xfe\x00" * 20, "not UTF-8"),
        (b"domain,website\n", "more than one column"),
    ],
)
async def test_a_file_that_is_no_account_list_fails_with_that_reason(
    office: Office, data: bytes, reason: str
) -> None:
    """At once, and with nothing stored."""
    answer = await upload(office, data)
    await office.tick()

    job = office.project.row(answer.json()["job"]["id"])
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert reason in job["error_message"]
    assert len(accounts(office)) == 8


class BreakingFiles:
    """Reads the true file, but breaks off after so many bytes, so many times."""

    def __init__(self, office: Office, *, after: int, times: int) -> None:
        self._files = office.enrichment.files
        self._after = after
        self.left = times
        self.starts: list[int] = []

    async def stream(self, key: str, *, start: int) -> AsyncIterator[bytes]:
        self.starts.append(start)
        given = 0
        async for chunk in self._files.stream(key, start=start):
            if self.left and given + len(chunk) > self._after:
                yield chunk[: self._after - given]
                self.left -= 1
                raise ConnectionResetError("the line went dead")
            given += len(chunk)
            yield chunk


def small_worker(office: Office, files: Any, *, batch_rows: int = 10) -> Worker:
    """A worker whose imports take small batches from `files`."""
    registry = Registry()
    importer = ImportProcessor(office.enrichment.store, files, batch_rows=batch_rows)
    registry.processor("import_accounts", payload=ImportAccounts)(importer.import_accounts)
    return Worker(office.settings, registry=registry, options=TickOptions(linger_seconds=0))


async def test_an_import_continues_where_a_crash_stopped_it(office: Office) -> None:
    """No row twice, no row left out, no error reported twice."""
    rows = [f"N{n},n{n}.example,," if n % 9 else f"Bad {n},,," for n in range(200)]
    answer = await upload(office, table(*rows), enrich="true")
    job_id = answer.json()["job"]["id"]
    files = BreakingFiles(office, after=800, times=3)
    worker = small_worker(office, files)

    for _ in range(4):
        await worker.tick(budget_seconds=60)
        office.make_due(job_id)
    await worker.aclose()

    found = await office.call("GET", f"/api/accounts/imports/{answer.json()['import']['id']}")
    made = [domain for domain in accounts(office) if domain.startswith("n")]
    jobs = office.project.rows("select * from public.jobs where job_type = 'enrich_account'")
    errors = office.project.rows("select * from public.account_import_errors")
    assert office.project.row(job_id)["status"] == "completed"
    assert files.starts[0] == 0
    assert files.starts == sorted(set(files.starts))
    assert len(files.starts) == 4
    assert counts(found.json()) == (200, 177, 0, 23)
    assert len(made) - 1 == len(jobs) == 177  # nobody.invalid is in the seed
    assert len(errors) == 23


async def test_blank_rows_move_the_mark_too(office: Office) -> None:
    """Spreadsheets export a million of them; read anew each time, such a file would never end."""
    answer = await upload(office, table(*["," * 20_000] * 60, "Last,last.example,,"))
    job_id = answer.json()["job"]["id"]
    files = BreakingFiles(office, after=1_150_000, times=1)
    worker = small_worker(office, files)

    await worker.tick(budget_seconds=60)
    office.make_due(job_id)
    await worker.tick(budget_seconds=60)
    await worker.aclose()

    assert files.starts[0] == 0
    assert files.starts[1] > 0
    assert office.project.row(job_id)["result"]["rows_created"] == 1


async def test_a_batch_is_stored_once_and_by_the_holder_of_the_lease(office: Office) -> None:
    """Sent again because its answer was lost, it changes nothing; a zombie's is rolled back."""
    answer = await upload(office, table("A,a.example"))
    job_id, import_id = answer.json()["job"]["id"], uuid.UUID(answer.json()["import"]["id"])
    fence = lease(office.project.database, job_id)["fence"]
    batch = {
        "rows": [{"row": 1, "name": "A", "domain": "a.example"}],
        "errors": [],
        "bytes_read": 30,
        "columns": {"fields": ["name", "domain"], "delimiter": ","},
        "done": False,
    }
    store = office.enrichment.store

    with pytest.raises(LeaseLost):
        await store.store_batch(job_id, fence + 1, import_id, from_row=0, batch=batch)
    before = accounts(office)
    first = await store.store_batch(job_id, fence, import_id, from_row=0, batch=batch)
    again = await store.store_batch(job_id, fence, import_id, from_row=0, batch=batch)

    assert "a.example" not in before
    assert first is not None
    assert again == first
    assert first.rows_created == 1


async def test_a_tick_near_its_deadline_hands_the_rest_on(office: Office) -> None:
    """A Lambda's quarter of an hour may be too short; no attempt is spent on that."""
    spare = "minutehand_apps.enrichment.import_processor.SECONDS_TO_SPARE"
    answer = await upload(office, table(*(f"N{n},n{n}.example,," for n in range(100))))
    job_id = answer.json()["job"]["id"]
    worker = small_worker(office, office.enrichment.files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spare, 1e9)  # the tick is near its deadline from its beginning
        await worker.tick(budget_seconds=60)
    halfway = office.project.row(job_id)
    office.make_due(job_id)
    await worker.tick(budget_seconds=60)
    await worker.aclose()

    done = office.project.row(job_id)
    assert (halfway["status"], halfway["attempts"]) == ("pending", 0)
    assert 0 < halfway["progress"]["percentage"] < 100
    assert (done["status"], done["result"]["rows_created"]) == ("completed", 100)


async def test_a_large_file_goes_by_a_signed_address(office: Office) -> None:
    """The file does not pass through the API, so no gateway's limit applies."""
    data = table("Big,big.example,,")

    asked = await office.call(
        "POST",
        "/api/accounts/import/upload",
        json={"workspace_id": ACME, "total_bytes": len(data)},
    )
    place = asked.json()
    async with httpx.AsyncClient() as http:
        put = await http.put(place["url"], content=data, headers=place["headers"])
    answer = await office.call(
        "POST",
        "/api/accounts/import",
        json={"workspace_id": ACME, "import_id": place["import_id"], "file_name": "big.csv"},
    )
    await office.tick()

    assert (asked.status_code, put.status_code, answer.status_code) == (201, 200, 201)
    assert answer.json()["import"]["total_bytes"] == len(data)
    assert "big.example" in accounts(office)


async def test_a_file_that_was_never_put_is_refused(office: Office) -> None:
    """No job is made that could only fail."""
    answer = await office.call(
        "POST",
        "/api/accounts/import",
        json={"workspace_id": ACME, "import_id": str(uuid.uuid4())},
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_handing_the_same_file_in_twice_is_refused(office: Office) -> None:
    """One import per uploaded file; a repeated request must not start a second one."""
    first = (await upload(office, table("A,a.example"))).json()["import"]

    again = await office.call(
        "POST",
        "/api/accounts/import",
        json={"workspace_id": ACME, "import_id": first["id"], "file_name": "list.csv"},
    )

    assert again.status_code == 400


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"data": {"workspace_id": ACME}, "files": {"other": ("a.csv", b"x")}}, "file"),
        ({"data": {}, "files": {"file": ("a.csv", b"x")}}, "workspace_id"),
        ({"data": {"workspace_id": "x"}, "files": {"file": ("a.csv", b"x")}}, "workspace_id"),
        (
            {
                "data": {"workspace_id": ACME, "enrich": "perhaps"},
                "files": {"file": ("a.csv", b"x")},
            },
            "enrich",
        ),
        ({"json": {"workspace_id": ACME}}, "import_id"),
        ({"json": {"workspace_id": ACME, "import_id": str(uuid.uuid4()), "x": 1}}, "x"),
    ],
)
async def test_a_malformed_request_names_its_field(
    office: Office, options: dict[str, Any], field: str
) -> None:
    """Never a 500 for bad input."""
    answer = await office.call("POST", "/api/accounts/import", **options)

    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["detail"]] == [field]
    assert "input" not in answer.json()["error"].lower()  # our words, as on the other routes


async def test_a_bare_csv_is_refused_with_what_is_accepted(office: Office) -> None:
    """The two ways, by name, and where the workspace belongs."""
    answer = await office.call(
        "POST", "/api/accounts/import", content=b"name\nx\n", headers={"Content-Type": "text/csv"}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data" in answer.json()["error"]
    assert "application/json" in answer.json()["error"]

    ways: list[dict[str, Any]] = [
        {"content": b"x", "headers": {"Content-Type": "text/csv"}},
        {"json": {}},
    ]
    for options in ways:
        answer = await office.call("POST", f"/api/accounts/import?workspace_id={ACME}", **options)
        assert answer.status_code == 422
        assert [(one["field"], one["location"]) for one in answer.json()["detail"]] == [
            ("workspace_id", "query")
        ]


async def test_strangers_neither_import_nor_see_imports(office: Office) -> None:
    """Not by form, not by address, not by the id of somebody else's."""
    mine = (await upload(office, table("A,a.example"))).json()["import"]["id"]

    by_form = await upload(office, table("X,x.example"), user=EVE)
    by_address = await office.call(
        "POST",
        "/api/accounts/import/upload",
        user=EVE,
        json={"workspace_id": ACME, "total_bytes": 5},
    )
    by_json = await office.call(
        "POST",
        "/api/accounts/import",
        user=EVE,
        json={"workspace_id": GLOBEX, "import_id": mine},
    )
    file = {"object_key": f"imports/{GLOBEX}/x.csv", "file_name": "x", "total_bytes": 1}
    by_rpc = await office.rest(
        "POST",
        "/rpc/create_account_import",
        user=EVE,
        json={"p_workspace_id": GLOBEX, "p_import": {"id": mine, **file}},
    )
    seen = await office.call("GET", f"/api/accounts/imports/{mine}", user=EVE)
    errors = await office.call("GET", f"/api/accounts/imports/{mine}/errors.csv", user=EVE)

    assert (by_form.status_code, by_address.status_code) == (404, 404)
    assert by_json.status_code == 400
    assert by_rpc.status_code == 200, by_rpc.text
    assert by_rpc.json()["import"]["id"] != mine
    assert (seen.status_code, errors.status_code) == (404, 404)
