"""In Node: a verifier written from the README agrees with ours; the console's diff is whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from minutehand.node import node_binary
from minutehand.signing.canonical import digest
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head
from minutehand.signing.verify import read_keys
from minutehand_apps.beacon.verify import read_given, verify
from tests.support.paths import ROOT
from tests.unit.beacon.signed import AT, SPEC, jwks, make_bundle, reclosed, resigned
from tests.unit.beacon.test_verify import (
    ANSWER,
    ELSEWHERE,
    UNCLOSED,
    replayed,
    tampered,
    without,
)

CONSOLE = ROOT / "shared/minutehand_apps/beacon/console"
DIFF = f"""
import {{ readFileSync }} from "node:fs";
import {{ differences }} from {json.dumps(str(CONSOLE / "differences.js"))};
const pairs = JSON.parse(readFileSync(0));
console.log(JSON.stringify(pairs.map(([base, text]) => differences(base, text))));
"""
WORKSPACE = digest(make_bundle()["closing"]["workspace_id"])
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
    "omitted": (without(1), jwks()),
    "unclosed": (UNCLOSED, jwks()),
    "closed by nothing": (without(1, closing={}), jwks()),
    "running": ({**UNCLOSED, "running": True}, jwks()),
    "fewer asked": (reclosed(without(0)), jwks()),
    "wrong count": (reclosed(make_bundle(), receipts=1), jwks()),
    "wrongly reached": (reclosed(make_bundle(), reached=["us-east"]), jwks()),
    "revoked": (make_bundle(), jwks(revoked_at=1, last={WORKSPACE: 3})),
    "revoked later": (make_bundle(), jwks(revoked_at=2**40, last={WORKSPACE: 3})),
    "revoked before the last": (make_bundle(), jwks(revoked_at=2**40, last={WORKSPACE: 2})),
    "early": (resigned(0, issued_at="2020-01-01T00:00:00.000Z"), jwks(nbf=1_700_000_000)),
}  # fmt: skip


def in_node(folder: Path, script: str, given: Any) -> Any:
    """What a module script prints, as JSON."""
    path = folder / "script.mjs"
    path.write_text(script)
    done = subprocess.run(
        [node_binary(), path],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_a_verifier_written_from_the_page_alone_finds_the_same(tmp_path: Path) -> None:
    """The README is all that a stranger needs, whatever the bundle."""
    stranger = (ROOT / "tests/unit/beacon/stranger.mjs").read_text()

    verdicts = in_node(tmp_path, stranger, list(CASES.values()))

    assert dict(zip(CASES, verdicts, strict=True)) == {
        case: verify(read_given(json.dumps(bundle))[0], read_keys(keys)).verdict
        for case, (bundle, keys) in CASES.items()
    }


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
