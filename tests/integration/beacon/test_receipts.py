"""Receipts: signed, chained, exported, verified here, offline and by a stranger; rotation."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from minutehand.clock import ShiftedClock, SystemClock
from minutehand.signing.canonical import digest, digest_of
from minutehand.signing.verify import read_keys
from minutehand_apps.beacon.models import Closing, Receipt
from minutehand_apps.beacon.verify import read_given, verify
from tests.integration.beacon.conftest import EVE, Providers, Station
from tests.support.project import ACME

README = Path(__file__).parents[3] / "shared" / "minutehand_apps" / "beacon" / "README.md"


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


async def keys_of(station: Station) -> dict[str, Any]:
    answer = await station.call("GET", "/keys", user=None)
    assert answer.status_code == 200
    keys: dict[str, Any] = answer.json()
    return keys


async def bundle_of(station: Station, job: dict[str, Any]) -> dict[str, Any]:
    bundle: dict[str, Any] = (await station.call("GET", f"/jobs/{job['id']}/bundle")).json()
    return bundle


def verdict(bundle: dict[str, Any], keys: dict[str, Any]) -> str:
    given, alone = read_given(json.dumps(bundle))
    return verify(given, read_keys(keys), partial=alone).verdict


async def test_each_execution_has_a_receipt_of_the_published_format(station: Station) -> None:
    """Every member that the contract names, bound to job, execution, region and answers."""
    state = await station.ended(await station.submit(constraints={"min_regions": 2}))

    for execution in state["executions"]:
        receipt = await station.receipt(execution)
        Receipt.model_validate(receipt)
        assert receipt["execution_id"] == execution["id"]
        assert receipt["jobspec_id"] == state["jobspec_id"]
        assert receipt["region"] == execution["region"]
        assert receipt["hashes"]["jobspec"] == digest_of(state["spec"])
        assert receipt["hashes"]["output"] == digest_of(receipt["output"])
        stored = execution["output"]["data"]["responses"]
        assert receipt["output"]["data"]["responses"] == stored
        assert receipt["started_at"] <= receipt["completed_at"] <= receipt["issued_at"]
    station.chain()
    keys = await keys_of(station)
    assert verdict(await bundle_of(station, state), keys) == "passed"
    server = await station.call("POST", "/receipts/verify", json=await bundle_of(station, state))
    assert (server.status_code, server.json()["verdict"]) == (200, "passed")


async def test_a_job_closes_with_a_receipt_that_names_all_it_asked_for(
    station: Station, providers: Providers
) -> None:
    """Reached, failed with the reason, and how many receipts: none can be omitted afterwards."""
    providers.faults(None, "eu-west", down=True)
    state = await station.ended(await station.submit(constraints={"min_regions": 1}))
    bundle, keys = await bundle_of(station, state), await keys_of(station)
    closing = bundle["closing"]

    Closing.model_validate(closing)
    assert (closing["status"], closing["reached"], closing["receipts"]) == (
        "completed", ["us-east"], 1,
    )  # fmt: skip
    told = {each["region"]: each for each in closing["executions"]}
    assert told["us-east"]["receipt"] == digest_of(bundle["receipts"][0])
    assert "status 503" in told["eu-west"]["error"]
    assert closing["completed_at"] <= closing["issued_at"]
    assert verdict(bundle, keys) == "passed"
    assert verdict({**bundle, "receipts": []}, keys) == "failed"
    assert verdict({**bundle, "closing": None}, keys) == "failed"
    station.chain()


async def test_a_job_that_runs_has_a_bundle_that_is_not_whole_and_a_cancelled_one_is_closed(
    station: Station, providers: Providers
) -> None:
    """What is there proves itself; that it is all is not said before the end, and then signed."""
    providers.faults(None, "eu-west", delay_seconds=600)
    job = await station.submit()
    await station.tick()
    running = await bundle_of(station, job)
    cancelled = await station.call("POST", f"/jobs/{job['id']}/cancel")
    await station.outbox.close_ended()
    await station.outbox.close_ended()
    closed, keys = await bundle_of(station, job), await keys_of(station)

    assert cancelled.json()["status"] == "cancelled"
    assert (running["running"], verdict(running, keys)) == (True, "not_made")
    assert verdict(closed, keys) == "passed"
    told = {each["region"]: each["status"] for each in closed["closing"]["executions"]}
    assert told == {"us-east": "completed", "eu-west": "cancelled"}
    station.chain()


async def test_the_chain_is_read_as_lines_and_by_the_command(
    station: Station, tmp_path: Path
) -> None:
    """From a number to a number; members of another workspace read theirs."""
    await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    keys = await keys_of(station)
    whole = await station.call("GET", f"/receipts?workspace_id={ACME}")
    part = await station.call("GET", f"/receipts?workspace_id={ACME}&from=2&to=3")
    other = await station.call("GET", "/receipts", user=EVE)
    (tmp_path / "chain.ndjson").write_text(whole.text)
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    done = run(
        "-m", "minutehand.cli", "beacon", "verify", "--chain", str(tmp_path / "chain.ndjson"),
        "--keys", str(tmp_path / "keys.json"),
    )  # fmt: skip

    assert whole.headers["content-type"].startswith("application/x-ndjson")
    numbers = [json.loads(line)["number"] for line in whole.text.splitlines()]
    assert numbers == [row["number"] for row in station.chain()]
    assert [json.loads(line)["number"] for line in part.text.splitlines()] == numbers[1:3]
    assert (other.status_code, other.text) == (200, "")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_key_vouches_for_what_it_had_signed_alone(station: Station) -> None:
    """The next one signs in the same chain; a revoked one's receipts stay good up to its last."""
    first = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    station.project.run_sql("select public.retire_signing_key('beacon')")
    second = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    bundles = [await bundle_of(station, job) for job in (first, second)]
    kids = [each["closing"]["key_id"] for each in bundles]
    before = await keys_of(station)
    station.project.run_sql("select public.revoke_signing_key(%s)", kids[0])
    keys = await keys_of(station)

    assert kids[0] != kids[1]
    for known in (before, keys):
        assert [verdict(each, known) for each in bundles] == ["passed", "passed"]
    [revoked] = [key for key in keys["keys"] if key["kid"] == kids[0]]
    assert revoked["last"][digest(ACME)] == bundles[0]["closing"]["number"]
    revoked["last"][digest(ACME)] -= 1
    assert verdict(bundles[0], keys) == "failed"


async def test_one_clock_gives_every_instant_of_a_receipt(station: Station) -> None:
    """A worker whose clock is late does not end an execution before it began."""
    station.beacon.clock = ShiftedClock(SystemClock(), timedelta(minutes=-7))
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))

    bundle = await bundle_of(station, state)
    receipt = bundle["receipts"][0]
    assert receipt["started_at"] <= receipt["completed_at"] <= receipt["issued_at"]
    assert receipt["issued_at"] <= bundle["closing"]["issued_at"]


async def test_a_stranger_verifies_a_receipt_with_the_forty_lines_of_the_readme(
    station: Station, tmp_path: Path
) -> None:
    """The example is what it promises: short, and it notices a changed word and a revoked key."""
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    receipt = await station.receipt(state["executions"][0])
    [program] = re.findall(r"```python\n(# verify_receipt\.py.*?)```", README.read_text(), re.S)
    (tmp_path / "verify_receipt.py").write_text(program)
    keys = await keys_of(station)
    revoked = [{**key, "revoked_at": 2**40, "last": {digest(ACME): 0}} for key in keys["keys"]]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    (tmp_path / "revoked.json").write_text(json.dumps({"keys": revoked}))
    (tmp_path / "good.json").write_text(json.dumps(receipt))
    receipt["output"]["data"]["responses"][0]["response"] += "!"
    (tmp_path / "bad.json").write_text(json.dumps(receipt))

    codes = [
        run("verify_receipt.py", name, keys_file, folder=tmp_path).returncode
        for name, keys_file in (
            ("good.json", "keys.json"), ("bad.json", "keys.json"), ("good.json", "revoked.json"),
        )
    ]  # fmt: skip

    assert len(program.splitlines()) <= 40
    assert codes == [0, 1, 1]


async def test_workers_that_race_for_the_chain_leave_it_whole(
    station: Station, providers: Providers
) -> None:
    """Each receipt has one place, whoever signs at the same moment."""
    jobs = [await station.submit(constraints={"regions": ["us-east"]}) for _ in range(16)]
    async with Station(station.project, providers).open() as other:
        await asyncio.gather(
            *(each.worker.tick(budget_seconds=60) for each in (station, other) for _ in range(1))
        )
        for job in jobs:
            assert (await station.ended(job))["status"] == "completed"

    chain = station.chain()
    assert len({(row["job_id"], row["execution_id"]) for row in chain}) == len(chain)
