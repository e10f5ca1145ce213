"""The console's own verifier, in Node: it says what the Python one says."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.local.parts import ROOT, node_binary
from shared.apps.beacon.jws import SigningKey
from shared.apps.beacon.verify import read_bundle, read_keys, verify
from tests.unit.beacon.signed import AT, jwks, make_bundle
from tests.unit.beacon.test_verify import (
    faster_sample,
    raise_threshold,
    resigned,
    swap_samples,
    swap_signatures,
)

VERIFIER = ROOT / "infra/console/apps/beacon/verification.js"
SCRIPT = f"""
import {{ readFileSync }} from "node:fs";
import {{ isAble, verify }} from {json.dumps(str(VERIFIER))};
const reports = [await isAble()];
for (const [bundle, keys] of JSON.parse(readFileSync(0))) reports.push(await verify(bundle, keys));
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
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The browser's report on every case."""
    script: Path = tmp_path_factory.mktemp("node") / "verify.mjs"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [node_binary(), script],
        input=json.dumps(list(CASES.values())),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    is_able, *found = json.loads(done.stdout)
    assert is_able
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
