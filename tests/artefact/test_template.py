"""The compiled stage `dev`: as recorded, and accepted by cfn-lint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from minutehand.deploy.package import TEMPLATE
from tests.support.paths import ROOT

RECORDED = ROOT / "tests" / "artefact" / "template.jsonl"
#: What differs from build to build: where the zip is put, its hash, commit and instant, the Python.
_VARYING = re.compile(
    r'(?<="S3Key": ")[^"]+|(?<="MINUTEHAND_COMMIT": ")[^"]*|(?<="MINUTEHAND_SOURCE": ")[^"]*'
    r'|(?<="MINUTEHAND_DEPLOYED_AT": ")[^"]*|(?<="MINUTEHAND_VERSION": ")[^"]*'
    r'|(?<="Runtime": "python)[\d.]+'
)
#: A dependency that a reference implies is osls' way.
ALLOWED = "W3005"


def lines(stack: dict[str, Any]) -> list[str]:
    """A line a resource and output, so that a change of one is a change of one line."""
    parts = {**stack["Resources"], **{f"Output {k}": v for k, v in stack["Outputs"].items()}}
    text = (json.dumps({name: part}, sort_keys=True) for name, part in sorted(parts.items()))
    return [_VARYING.sub("…", line) for line in text]


def test_the_template_is_the_recorded_one(stack: dict[str, Any]) -> None:
    """Rights, routes, limits and alarms change on purpose: `git diff` shows what."""
    recorded = RECORDED.read_text("utf-8").splitlines() if RECORDED.exists() else []
    found = lines(stack)
    if found != recorded:
        RECORDED.write_text("".join(f"{line}\n" for line in found), "utf-8")

    assert found == recorded, f"{RECORDED.name} was written again: review its diff"


def test_cfn_lint_accepts_it(template: Path) -> None:
    """Against AWS's own schemas, which moto does not know."""
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--ignore-checks", ALLOWED]

    done = subprocess.run(
        [*command, "--", str(template / TEMPLATE)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout
