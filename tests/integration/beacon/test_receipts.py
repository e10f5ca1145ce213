"""Receipts: signed, chained, exported, verified here, offline and by a stranger; rotation."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand.apps.beacon.canonical import digest_of
from minutehand.apps.beacon.models import Receipt
from minutehand.apps.beacon.verify import read_given, read_keys, verify
from tests.integration.beacon.conftest import Providers, Station

README = Path(__file__).parents[3] / "shared" / "minutehand" / "apps" / "beacon" / "README.md"


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


@pytest.mark.parametrize(
    "path",
    [
        ("output", "data", "responses", 0, "response"),
        ("region",),
        ("provider",),
        ("started_at",),
        ("jobspec_id",),
        ("hashes", "output"),
        ("number",),
    ],
    ids=str,
)
async def test_no_member_can_be_changed_unnoticed(station: Station, path: tuple[Any, ...]) -> None:
    """Whatever is changed, the signature is another's."""
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    receipt = await station.receipt(state["executions"][0])
    target: Any = receipt
    for step in path[:-1]:
        target = target[step]
    old = target[path[-1]]
    target[path[-1]] = (
        old + 1 if isinstance(old, int) else old[:-1] + ("0" if old[-1] != "0" else "1")
    )

    assert verdict(receipt, await keys_of(station)) == "failed"


async def test_a_stranger_verifies_a_receipt_with_the_forty_lines_of_the_readme(
    station: Station, tmp_path: Path
) -> None:
    """The example is what it promises: short, complete, and it notices a changed word."""
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    receipt = await station.receipt(state["executions"][0])
    [program] = re.findall(r"```python\n(# verify_receipt\.py.*?)```", README.read_text(), re.S)
    (tmp_path / "verify_receipt.py").write_text(program)
    (tmp_path / "keys.json").write_text(json.dumps(await keys_of(station)))
    (tmp_path / "good.json").write_text(json.dumps(receipt))
    receipt["output"]["data"]["responses"][0]["response"] += "!"
    (tmp_path / "bad.json").write_text(json.dumps(receipt))

    codes = [
        run("verify_receipt.py", name, "keys.json", folder=tmp_path).returncode
        for name in ("good.json", "bad.json")
    ]

    assert len(program.splitlines()) <= 40
    assert codes == [0, 1]


async def test_the_command_verifies_offline(station: Station, tmp_path: Path) -> None:
    """With the receipt and the keys in files nothing else is asked."""
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    receipt, keys = tmp_path / "receipt.json", tmp_path / "keys.json"
    receipt.write_text(json.dumps(await station.receipt(state["executions"][0])))
    keys.write_text(json.dumps(await keys_of(station)))
    command = ("-m", "minutehand.cli", "beacon", "verify", str(receipt), "--keys", str(keys))

    done = run(*command)
    receipt.write_text(receipt.read_text().replace("us-east", "us-west"))
    changed = run(*command)

    assert (done.returncode, "verified" in done.stdout) == (0, True), done.stdout + done.stderr
    assert (changed.returncode, "NOT verified" in changed.stdout) == (1, True)


async def test_a_rotated_key_goes_on_verifying_what_it_signed(station: Station) -> None:
    """The next receipt is signed by another key; both are published, in one chain."""
    first = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    async with httpx.AsyncClient() as http:
        retired = await http.post(
            f"{station.settings.supabase_url}/rest/v1/rpc/beacon_retire_key",
            headers={"apikey": str(station.settings.supabase_secret_key)},
            json={},
        )
    if retired.status_code != 200:
        station.project.run_sql("select public.beacon_retire_key()")
    second = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))

    receipts = [await station.receipt(job["executions"][0]) for job in (first, second)]
    keys = await keys_of(station)
    assert receipts[0]["key_id"] != receipts[1]["key_id"]
    for job in (first, second):
        assert verdict(await bundle_of(station, job), keys) == "passed"
    late = verify(
        read_given(json.dumps({**receipts[0]}))[0],
        {kid: {**key, "exp": 1} for kid, key in read_keys(keys).items()},
        partial=True,
    )
    assert late.verdict == "failed"
    future = verify(
        read_given(json.dumps(receipts[1]))[0],
        read_keys(keys),
        partial=True,
        now=datetime.now(UTC) - timedelta(days=1),
    )
    assert future.verdict == "failed"


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
    assert len({row["execution_id"] for row in chain}) == len(chain)
