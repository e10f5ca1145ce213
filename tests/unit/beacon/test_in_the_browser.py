"""The console's own verifier, in Node: it says what the Python one says."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minutehand.apps.beacon.jws import SigningKey
from minutehand.apps.beacon.models import Head
from minutehand.apps.beacon.verify import read_bundle, read_keys, verify
from minutehand.local.parts import node_binary
from tests.support.paths import ROOT
from tests.unit.beacon.signed import AT, jwks, make_bundle
from tests.unit.beacon.test_verify import (
    drop_run,
    drop_samples,
    drop_spec,
    faster_sample,
    raise_threshold,
    resigned,
    swap_samples,
    swap_signatures,
)

VERIFIER = ROOT / "shared/minutehand/apps/beacon/console/verification.js"
SCRIPT = f"""
import {{ readFileSync }} from "node:fs";
import {{ isAble, verify }} from {json.dumps(str(VERIFIER))};
const reports = [await isAble()];
for (const [bundle, keys] of JSON.parse(readFileSync(0))) reports.push(await verify(bundle, keys));
let refused = "";
const twice = JSON.parse(process.argv[2]);
await verify({{ receipts: [] }}, twice).catch((error) => {{ refused = error.message; }});
reports.push(refused);
console.log(JSON.stringify(reports));
"""


def tampered(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The bundle with one change."""
    bundle = make_bundle()
    change(bundle)
    return bundle


CASES = {
    "whole": (make_bundle(), jwks()),
    "signatures": (tampered(swap_signatures), jwks()),
    "samples": (tampered(swap_samples), jwks()),
    "sample": (tampered(faster_sample), jwks()),
    "spec": (tampered(raise_threshold), jwks()),
    "link": (resigned(1, lambda p: p.update(previous="sha256:" + "0" * 64)), jwks()),
    "region": (resigned(2, lambda p: p["regions"][0].update(receipt="sha256:" + "0" * 64)), jwks()),
    "forger": (make_bundle(SigningKey.from_seed(b"f" * 32)), jwks()),
    "retired": (make_bundle(), jwks(exp=int(AT.timestamp()) - 1)),
    "part": ({**make_bundle(), "receipts": make_bundle()["receipts"][1:]}, jwks()),
    "later": (make_bundle(head=Head(number=7, digest="sha256:" + "7" * 64)), jwks()),
    "no run": (tampered(drop_run), jwks()),
    "no samples": (tampered(drop_samples), jwks()),
    "no spec": (tampered(drop_spec), jwks()),
    "future": (resigned(0, lambda p: p.update(issued_at="9000-01-01T00:00:00.000Z")), jwks()),
    "early": (resigned(0, lambda p: p.update(issued_at="2020-01-01T00:00:00.000Z")), jwks()),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The browser's report on every case."""
    script: Path = tmp_path_factory.mktemp("node") / "verify.mjs"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [node_binary(), script, json.dumps({"keys": jwks()["keys"] * 2})],
        input=json.dumps(list(CASES.values())),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    is_able, *found, refused = json.loads(done.stdout)
    assert is_able
    assert "stands twice" in refused
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_both_verifiers_find_the_same(reports: dict[str, Any], case: str) -> None:
    """Of the checks that both make, each has the same state, receipt by receipt."""
    bundle, keys = copy.deepcopy(CASES[case])
    report = verify(read_bundle(json.dumps(bundle)), read_keys(keys)).as_json()

    def states(told: dict[str, Any]) -> dict[tuple[str, str], str]:
        return {(one["subject"], one["check"]): one["state"] for one in told["checks"]}

    ours, browsers = states(report), states(reports[case])
    both = ours.keys() & browsers.keys()
    assert {"signature", "spec", "samples", "chain"} <= {name for _, name in both}
    assert {key: browsers[key] for key in both} == {key: ours[key] for key in both}
    assert reports[case]["verdict"] == report["verdict"]
    told = {one["detail"] for one in report["checks"] if one["check"] == "key"}
    assert {one["detail"] for one in reports[case]["checks"] if one["check"] == "key"} == told
