"""Runs from the API to their receipts: what is measured, what fails, what goes on after a crash."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

from minutehand.apps.beacon.models import Bundle
from minutehand.apps.beacon.verify import read_keys, verify
from tests.integration.beacon.conftest import ACME, EVE, GLOBEX, Station
from tests.integration.beacon.provider import BIG, CUT, HANG, Provider


def outcomes(run: dict[str, Any], region: int = 0) -> dict[str, int]:
    """Counts per outcome of a region."""
    counts: dict[str, int] = run["regions"][region]["statistics"]["outcomes"]
    return counts


async def test_a_run_measures_each_region_and_signs_what_it_found(
    station: Station, provider: Provider
) -> None:
    """The whole way: spec, run, regions, receipts, bundle, verified by the published keys."""
    run = await station.start(
        provider.url,
        regions=["eu-west-1", "us-east-1"],
        thresholds={"p95_ms": 60000, "error_rate": 0},
    )

    ended = await station.ended(run)

    assert (ended["status"], provider.requests) == ("completed", 12)
    assert [region["status"] for region in ended["regions"]] == ["completed", "completed"]
    assert {region["measured_from"] for region in ended["regions"]} == {"local"}
    assert {region["verdict"] for region in ended["regions"]} == {"passed"}
    keys = (await station.call("GET", "/keys", user=None)).json()
    bundle = await station.bundle(run)
    report = verify(Bundle.model_validate(bundle), read_keys(keys))
    assert report.verdict == "passed", report.as_json()
    assert [check for check in report.checks if check.state == "failed"] == []
    told = await station.call("POST", "/receipts/verify", json=bundle)
    assert told.json()["verdict"] == "passed"
    station.chain()


async def test_whatever_the_endpoint_does_is_a_sample(station: Station, provider: Provider) -> None:
    """401, 402, 422, 429, 500, a hang, a cut body: none of them ends the job."""
    provider.answers = [
        "200 OK", "401 Unauthorized", "402 Payment Required", "422 Unprocessable",
        "429 Too Many Requests", "500 Oops", HANG, CUT, BIG, "302 Found\r\nLocation: /elsewhere",
        "777 Odd",
    ]  # fmt: skip
    run = await station.start(
        provider.url,
        samples=12,
        concurrency=1,
        timeout_ms=1000,
        thresholds={"p95_ms": None, "error_rate": 0.5},
    )

    ended = await station.ended(run)

    assert ended["status"] == "completed"
    assert ended["regions"][0]["verdict"] == "failed"
    assert outcomes(ended) == {
        "ok:200": 2, "client_error:401": 1, "client_error:402": 1, "client_error:422": 1,
        "rate_limited:429": 1, "server_error:500": 1, "timeout": 1, "broken": 2, "redirect:302": 1,
        "too_large:200": 1,
    }  # fmt: skip


async def test_a_refused_connection_is_a_sample_too(station: Station) -> None:
    """Nothing listens there: ten of ten errors, and no latency to speak of."""
    run = await station.start("http://127.0.0.1:9/", samples=3)

    ended = await station.ended(run)

    statistics = ended["regions"][0]["statistics"]
    assert (statistics["outcomes"], statistics["latency_us"]) == ({"connect": 3}, None)


async def test_a_failed_handshake_is_told_from_a_refused_connection(
    station: Station, provider: Provider
) -> None:
    """There is somebody, but no TLS; each sample says so, on a connection of its own."""
    run = await station.start(provider.url.replace("http:", "https:"), samples=3, connection="new")

    ended = await station.ended(run)

    assert outcomes(ended) == {"tls": 3}


async def test_retry_after_is_waited_for_without_spending_an_attempt(
    station: Station, provider: Provider, project: Any
) -> None:
    """What was sampled is kept; wherever the region goes on, the receipt tells both places."""
    provider.answers = ["200 OK", "429 Slow down\r\nRetry-After: 120"]
    run = await station.start(provider.url, samples=5, concurrency=1)

    waiting = await station.ended(run)
    [region] = waiting["regions"]
    job = station.project.row(region["job_id"])
    assert (provider.requests, waiting["status"]) == (2, "running")
    assert (job["status"], job["snoozes"]) == ("pending", 1)
    station.make_due()
    elsewhere = project.settings.model_copy(update={"worker_location": "lab/2"})
    async with Station(project, elsewhere).open() as other:
        ended = await other.ended(run)

    assert (provider.requests, ended["status"]) == (5, "completed")
    assert outcomes(ended) == {"ok:200": 4, "rate_limited:429": 1}
    assert ended["regions"][0]["measured_from"] == "lab/2, local"
    assert station.project.row(region["job_id"])["attempts"] == 1


async def test_an_endpoint_is_asked_no_faster_than_the_operator_allows(
    station: Station, provider: Provider
) -> None:
    """However many are asked for at once."""
    setting = "update queue.settings set value = '{}' where name = 'beacon_requests_per_second'"
    station.project.run_sql(setting.format(20))
    try:
        ended = await station.ended(await station.start(provider.url, samples=6, concurrency=6))
    finally:
        station.project.run_sql(setting.format(50))

    bundle = (await station.call("GET", f"/runs/{ended['id']}/bundle")).json()
    started = sorted(bundle["receipts"][0]["samples"]["started_ms"])
    # 50 ms apart, told in whole milliseconds; a slow machine begins them later, never sooner
    assert started[-1] - started[0] >= 5 * 50 - 2


async def test_patience_with_a_limiting_endpoint_has_an_end(
    station: Station, provider: Provider
) -> None:
    """An hour is asked for; after a quarter of one the rest is measured as it comes."""
    provider.usual = "429 Slow down\r\nRetry-After: 3600"
    run = await station.start(provider.url, samples=6, concurrency=1)

    waiting = await station.ended(run)
    job_id = waiting["regions"][0]["job_id"]
    [row] = station.project.rows(
        "select extract(epoch from run_at - queue.clock())::int as seconds from queue.deferred"
        " where job_id = %s",
        job_id,
    )
    assert (provider.requests, 600 < row["seconds"] <= 900) == (1, True)
    station.make_due()
    ended = await station.ended(run)

    assert (provider.requests, ended["status"]) == (6, "completed")
    assert station.project.row(job_id)["snoozes"] == 1


async def test_a_region_that_leads_inside_fails_and_the_run_is_partial(
    station: Station, provider: Provider
) -> None:
    """The run completes, says which region is missing, and signs that."""
    run = await station.start(provider.url, regions=["eu-west-1", "us-east-1"])
    station.project.run_sql(
        "create function public.break_us() returns trigger language plpgsql as $$ begin"
        " if new.payload ->> 'region' = 'us-east-1' then new.max_attempts := 1;"
        ' new.payload := new.payload || \'{"run_id": "00000000-0000-4000-8000-000000000000"}\';'
        " end if; return new; end $$;"
        "create trigger a_break_us before insert on public.jobs for each row"
        " when (new.job_type = 'beacon_region') execute function public.break_us()"
    )
    try:
        ended = await station.ended(run)
    finally:
        station.project.run_sql("drop function public.break_us() cascade")

    assert ended["status"] == "partial"
    assert [region["status"] for region in ended["regions"]] == ["completed", "failed"]
    report = verify(
        Bundle.model_validate(await station.bundle(run)),
        read_keys((await station.call("GET", "/keys", user=None)).json()),
    )
    assert report.verdict == "passed", report.as_json()


async def test_a_private_address_is_refused_when_the_spec_is_written(station: Station) -> None:
    """By the database, where development has not allowed it."""
    station.project.run_sql(
        "update queue.settings set value = 'false' where name = 'beacon_private_addresses'"
    )
    try:
        for url in (
            "http://example.com/",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://a@b.example/",
        ):
            body = {
                "workspace_id": ACME,
                "name": "inside",
                "target": {"url": url},
                "regions": ["a"],
            }
            answer = await station.call("POST", "/specs", json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), url
    finally:
        station.project.run_sql(
            "update queue.settings set value = 'true' where name = 'beacon_private_addresses'"
        )


async def test_a_name_that_leads_inside_ends_its_region(project: Any, provider: Provider) -> None:
    """Outside development the worker refuses the resolved address, whatever the database says."""
    settings = project.settings.model_copy(update={"stage": "prod", "aws_region": "eu-west-1"})
    async with Station(project, settings).open() as station:
        run = await station.start(provider.url.replace("http:", "https:"))
        ended = await station.ended(run)

    assert (ended["status"], provider.requests) == ("failed", 0)
    assert "not public" in ended["regions"][0]["error"]


async def test_the_same_text_is_the_same_version_and_another_is_the_next(
    station: Station, provider: Provider
) -> None:
    """Nothing that was measured is ever changed."""
    first = await station.write(provider.url, name="versions")
    body = {**first["spec"], "workspace_id": ACME, "name": "versions"}

    again = await station.call("POST", "/specs", json=body)
    other = await station.call("POST", "/specs", json={**body, "samples": 7})

    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert (other.status_code, other.json()["version"]) == (201, 2)
    page = await station.call(
        "GET", "/specs", params={"workspace_id": ACME, "name": "versions", "limit": 1}
    )
    rest = await station.call(
        "GET",
        "/specs",
        params={"workspace_id": ACME, "name": "versions", "after": page.json()["next"]},
    )
    assert [spec["version"] for spec in page.json()["specs"] + rest.json()["specs"]] == [2, 1]


async def test_a_key_starts_one_run(station: Station, provider: Provider) -> None:
    """A repeated request finds the run; the key with another spec is a conflict."""
    spec, other = await station.write(provider.url), await station.write(provider.url, samples=1)
    headers = {"Idempotency-Key": f"key-{uuid.uuid4()}"}

    first = await station.call("POST", f"/specs/{spec['id']}/runs", headers=headers)
    again = await station.call("POST", f"/specs/{spec['id']}/runs", headers=headers)
    conflict = await station.call("POST", f"/specs/{other['id']}/runs", headers=headers)

    assert (first.status_code, again.status_code, conflict.status_code) == (201, 200, 409)
    assert first.json()["id"] == again.json()["id"]
    await station.ended(first.json())


async def test_a_schedule_or_a_plain_job_measures_a_spec_by_its_name(
    station: Station, provider: Provider
) -> None:
    """Its newest version, once per job however often it is tried; of the job's workspace only."""
    spec = await station.write(provider.url, name="nightly", samples=1)
    newer = await station.write(provider.url, name="nightly", samples=2)
    runs = await station.call("POST", f"/specs/{spec['id']}/runs")
    await station.ended(runs.json())
    assert provider.requests == 1

    job_id = station.project.insert("beacon_measure", {"spec": "nightly"})
    stranger = station.project.insert(
        "beacon_measure", {"spec": "nightly"}, workspace_id=GLOBEX, user_id=EVE
    )
    await station.ended(runs.json())

    job = station.project.row(job_id)
    run = await station.look({"id": job["result"]["run_id"]})
    assert (run["status"], run["spec_id"], provider.requests) == ("completed", newer["id"], 3)
    assert station.project.row(stranger)["error_message"] == "Spec not found: nightly"


async def test_a_cancelled_run_stops_its_regions(station: Station, provider: Provider) -> None:
    """Mid-way, with samples taken: no receipt, and the run says so."""
    provider.gate_after = 2
    run = await station.start(provider.url, regions=["eu-west-1", "us-east-1"])
    ticking = asyncio.create_task(station.worker.tick(budget_seconds=60))
    await asyncio.wait_for(provider.reached.wait(), 60)
    station.project.run_sql(
        "set role service_role; update public.jobs set status = 'cancelled' where id = '"
        + run["job_id"]
        + "'"
    )
    await asyncio.wait_for(ticking, 60)
    ended = await station.ended(run)

    assert ended["status"] == "cancelled"
    assert {region["status"] for region in ended["regions"]} == {"cancelled"}
    assert (await station.call("GET", f"/runs/{run['id']}/receipts")).json()["receipts"] == []


async def test_a_stranger_learns_nothing(station: Station, provider: Provider) -> None:
    """Eve has a workspace of her own; Acme's specs, runs and receipts do not exist for her."""
    run = await station.start(provider.url)
    await station.ended(run)

    for path in (
        f"/specs/{run['spec_id']}", f"/runs/{run['id']}", f"/runs/{run['id']}/receipts",
        f"/runs/{run['id']}/bundle", f"/runs/{run['id']}/deliveries",
    ):  # fmt: skip
        assert (await station.call("GET", path, user=EVE)).status_code == 404, path
    assert (
        await station.call("POST", f"/specs/{run['spec_id']}/runs", user=EVE)
    ).status_code == 404
    for path, name in (("/specs", "specs"), ("/runs", "runs"), ("/receipts", "receipts")):
        answer = await station.call("GET", path, user=EVE, params={"workspace_id": ACME})
        assert answer.json()[name] == []
    assert (
        await station.call("GET", "/specs", user=None, params={"workspace_id": ACME})
    ).status_code == 401


async def test_a_rotated_key_signs_from_now_on_and_the_old_one_still_verifies(
    station: Station, provider: Provider
) -> None:
    """The worker makes the new one; bundles from before and after verify by the same key set."""
    before = await station.start(provider.url, samples=1)
    await station.ended(before)

    station.project.run_sql("select public.beacon_retire_key()")
    after = await station.start(provider.url, samples=1)
    await station.ended(after)

    key_set = (await station.call("GET", "/keys", user=None)).json()
    keys = read_keys(key_set)
    new = key_set["keys"][0]["kid"]
    kids = []
    for run in (before, after):
        bundle = Bundle.model_validate(await station.bundle(run))
        assert verify(bundle, keys).verdict == "passed"
        receipts = (await station.call("GET", f"/runs/{run['id']}/receipts")).json()["receipts"]
        kids.append({receipt["kid"] for receipt in receipts})
    assert kids[1] == {new}
    assert new not in kids[0]


async def test_without_the_key_that_sealed_it_nothing_is_signed(
    station: Station, provider: Provider, project: Any, tmp_path: Path
) -> None:
    """Another machine's key file: the job says what to do, tries again, and measures no more."""
    run = await station.start(provider.url, samples=2)
    elsewhere = project.settings.model_copy(
        update={"sealing_key_file": str(tmp_path / "sealing.json")}
    )
    async with Station(project, elsewhere).open() as other:
        await other.ended(run)
        [region] = (await other.look(run))["regions"]
        assert region["status"] == "pending"
        assert "rotate it" in station.project.row(region["job_id"])["error_message"]
    station.make_due()

    ended = await station.ended(run)

    assert (ended["status"], provider.requests) == ("completed", 2)
