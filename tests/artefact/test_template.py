"""The CloudFormation template of a stage: it equals the recorded one, and cfn-lint accepts it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minutehand.deploy.build import ARCHIVE
from minutehand.deploy.package import TEMPLATE
from tests.support.paths import ROOT
from tests.support.stranger import Stranger

RECORDED = ROOT / "tests" / "artefact" / "template.jsonl"
#: A pattern of values that differ between builds: the zip's key, hash, commit and time, and the
#: Python version.
_VARYING = re.compile(
    r'(?<="S3Key": ")[^"]+|(?<="MINUTEHAND_COMMIT": ")[^"]*|(?<="MINUTEHAND_SOURCE": ")[^"]*'
    r'|(?<="MINUTEHAND_DEPLOYED_AT": ")[^"]*|(?<="MINUTEHAND_VERSION": ")[^"]*'
    r'|(?<="Runtime": "python)[\d.]+'
)
#: The cfn-lint rule that rejects redundant `DependsOn`, which osls writes.
ALLOWED = "W3005"


EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
COMPILE = """
from pathlib import Path
from minutehand.deploy.package import compile_template
from minutehand.deploy.service import write_first_files
from minutehand.project import Project

write_first_files(Project.find())
compile_template("dev", Path("out"))
"""


@pytest.fixture(scope="module")
def template(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's compiled stage `dev`. An empty zip is enough for osls."""
    project = stranger.copy(tmp_path_factory.mktemp("template"))
    out = project.folder / "out"
    out.mkdir()
    (out / ARCHIVE).write_bytes(EMPTY_ZIP)
    project.environment.run(project.folder, "-c", COMPILE)
    return out / "stack" / TEMPLATE


def lines(stack: dict[str, Any]) -> list[str]:
    """Return one line per resource and output, so that `git diff` shows each change."""
    parts = {**stack["Resources"], **{f"Output {k}": v for k, v in stack["Outputs"].items()}}
    text = (json.dumps({name: part}, sort_keys=True) for name, part in sorted(parts.items()))
    return [_VARYING.sub("…", line) for line in text]


def test_the_template_is_the_recorded_one(template: Path) -> None:
    """The compiled template equals the recorded one.

    Rights, routes, limits and alarms therefore change only on purpose.
    """
    recorded = RECORDED.read_text().splitlines() if RECORDED.exists() else []
    actual = lines(json.loads(template.read_text()))
    if actual != recorded:
        RECORDED.write_text("".join(f"{line}\n" for line in actual))

    assert actual == recorded, f"{RECORDED.name} was rewritten; review its diff"


@pytest.mark.weekly(only=True)
def test_cfn_lint_accepts_it(template: Path) -> None:
    """cfn-lint accepts the compiled template, which it checks against AWS's schemas."""
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--ignore-checks", ALLOWED]

    done = subprocess.run([*command, "--", str(template)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
