"""Schemathesis over the published document of the whole API: no 5xx, no undocumented answer.

`test_openapi` makes requests that know the seeded ids; this one makes thousands that do not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minutehand.local.users import ADA
from tests.integration.api.test_openapi import ENDLESS, settings_of_acme, undo_steering
from tests.support.stacks import RunningStack

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_request_meets_an_answer_that_the_document_does_not_know(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Every operation, by the edges of its schema and by chance."""
    settings = settings_of_acme(stack)
    try:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"{stack.api_url}/api/openapi.json",
                f"--header=Authorization: Bearer {stack.sign_in(ADA.email)}",
                f"--checks={','.join(CHECKS)}",
                "--phases=coverage,fuzzing",
                "--max-examples=6",
                "--seed=1",
                "--workers=1",  # CPython 3.11 parses in two threads at once wrongly
                "--request-timeout=60",
                *(f"--exclude-path={path}" for path in ENDLESS),
                "--suppress-health-check=all",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=880,
            check=False,
        )
    finally:
        undo_steering(stack, settings)

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed is not None
    assert passed[1] == passed[2]
    assert int(passed[1]) > 1000
