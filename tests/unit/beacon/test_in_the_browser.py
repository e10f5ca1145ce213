"""The console's own modules in Node: the verifier says what Python's says; the diff is whole."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minutehand.apps.beacon.models import Head
from minutehand.apps.beacon.signing import SigningKey
from minutehand.apps.beacon.verify import read_given, read_keys, verify
from minutehand.node import node_binary
from tests.support.paths import ROOT
from tests.unit.beacon.signed import AT, SPEC, jwks, make_bundle, resigned
from tests.unit.beacon.test_verify import ANSWER, ELSEWHERE, replayed, tampered

CONSOLE = ROOT / "shared/minutehand/apps/beacon/console"
VERIFY = f"""
import {{ readFileSync }} from "node:fs";
import {{ isAble, verify }} from {json.dumps(str(CONSOLE / "verification.js"))};
const reports = [await isAble()];
for (const [bundle, keys] of JSON.parse(readFileSync(0))) reports.push(await verify(bundle, keys));
let refused = "";
const twice = JSON.parse(process.argv[2]);
await verify({{ receipts: [] }}, twice).catch((error) => {{ refused = error.message; }});
reports.push(refused);
console.log(JSON.stringify(reports));
"""
DIFF = f"""
import {{ readFileSync }} from "node:fs";
import {{ differences }} from {json.dumps(str(CONSOLE / "differences.js"))};
const pairs = JSON.parse(readFileSync(0));
console.log(JSON.stringify(pairs.map(([base, text]) => differences(base, text))));
"""
CASES = {
    "whole": (make_bundle(), jwks()),
    "answer": (tampered(*ANSWER, "response", to="No."), jwks()),
    "spec": (tampered("jobspec", "version", to="2"), jwks()),
    "link": (resigned(1, hashes={**make_bundle()["receipts"][1]["hashes"],
                                 "previous": "sha256:" + "0" * 64}), jwks()),
    "forger": (make_bundle(SigningKey.from_seed(b"f" * 32)), jwks()),
    "retired": (make_bundle(), jwks(exp=int(AT.timestamp()) - 1)),
    "later": (make_bundle(head=Head(number=7, digest="sha256:" + "7" * 64)), jwks()),
    "no spec": ({key: value for key, value in make_bundle().items() if key != "jobspec"}, jwks()),
    "future": (resigned(0, issued_at="9000-01-01T00:00:00.000Z"), jwks()),
    "moon": (resigned(1, region="moon"), jwks()),
    "other id": (resigned(1, jobspec_id="other"), jwks()),
    "other job": (replayed(job_id=ELSEWHERE), jwks()),
    "other workspace": (replayed(workspace_id=ELSEWHERE), jwks()),
    "same execution": (replayed(execution_id=make_bundle()["receipts"][0]["execution_id"]), jwks()),
    "twice": ({**make_bundle(), "receipts": [make_bundle()["receipts"][0]] * 2}, jwks()),
    "no link": (resigned(1, hashes={**make_bundle()["receipts"][1]["hashes"], "previous": None}),
                jwks()),
    "questions": ({**make_bundle(), "jobspec": {**SPEC, "questions": SPEC["questions"][:1]}},
                  jwks()),
    "early": (resigned(0, issued_at="2020-01-01T00:00:00.000Z"), jwks(nbf=1_700_000_000)),
}  # fmt: skip


def in_node(folder: Path, script: str, given: Any, *arguments: str) -> Any:
    """What a module script prints, as JSON."""
    path = folder / "script.mjs"
    path.write_text(script)
    done = subprocess.run(
        [node_binary(), path, *arguments],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The browser's report on every case."""
    is_able, *found, refused = in_node(
        tmp_path_factory.mktemp("node"),
        VERIFY,
        list(CASES.values()),
        json.dumps({"keys": jwks()["keys"] * 2}),
    )
    assert is_able
    assert "occurs twice" in refused
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_both_verifiers_find_the_same(reports: dict[str, Any], case: str) -> None:
    """Of the checks that both make, each has the same state, receipt by receipt."""
    bundle, keys = copy.deepcopy(CASES[case])
    report = verify(read_given(json.dumps(bundle))[0], read_keys(keys)).as_json()

    def states(told: dict[str, Any]) -> dict[tuple[str, str], str]:
        return {(one["subject"], one["check"]): one["state"] for one in told["checks"]}

    assert states(reports[case]) == states(report)
    assert reports[case]["verdict"] == report["verdict"]


def test_differences_hold_every_word_of_both_answers(tmp_path: Path) -> None:
    """What is the same, added and removed makes up both texts again."""
    pairs = [
        ("The sky is blue", "The sky is often blue"),
        ("a b c", "c b a"),
        ("", "new"),
        ("same text", "same text"),
        ("two\nlines here", "two lines there"),
        ("x " * 700, "y"),
    ]
    *compared, too_long = in_node(tmp_path, DIFF, pairs)

    assert too_long is None
    for (base, text), runs in zip(pairs, compared, strict=False):
        kept = {kind: [r["text"] for r in runs if r["kind"] in {"same", kind}]
                for kind in ("added", "removed")}  # fmt: skip
        assert ("".join(kept["removed"]), "".join(kept["added"])) == (base, text)
    assert [run["kind"] for run in compared[0]] == ["same", "added", "same"]
    assert [run["kind"] for run in compared[3]] == ["same"]
