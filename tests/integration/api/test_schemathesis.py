"""Schemathesis over the published document of the whole API: no 5xx, no undocumented answer.

`test_openapi` makes requests that know the seeded ids; this one some that do not, weekly thousands.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand.local.users import ADA
from tests.integration.api.test_openapi import ENDLESS, settings_of_acme, undo_steering
from tests.support.stacks import RunningStack
from tests.support.weekly import weekly

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
#: A longer text tells no more about a route, and making one up takes a second a request.
LONGEST_TEXT = 2_000


@pytest.mark.weekly
@pytest.mark.timeout(900)
def test_no_request_meets_an_answer_that_the_document_does_not_know(
    stack: RunningStack, tmp_path: Path
) -> None:
    """Every operation by chance, and by the edges of its schema."""
    # read here: Schemathesis itself gives the first answer of a cold process only ten seconds
    document = httpx.get(f"{stack.api_url}/api/openapi.json", timeout=60).json()
    shorten_texts(document)
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(
        # each route is asked by methods that it has not; one of them shows what the others would
        '[phases.coverage]\nunexpected-methods = ["TRACE"]\n'
    )
    settings = settings_of_acme(stack)
    try:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                "openapi.json",
                f"--url={stack.api_url}",
                f"--header=Authorization: Bearer {stack.sign_in(ADA.email)}",
                f"--checks={','.join(CHECKS)}",
                f"--phases={weekly('coverage,fuzzing', otherwise='fuzzing')}",
                f"--max-examples={weekly(3, otherwise=1)}",
                "--seed=1",
                "--workers=1",  # CPython 3.11 parses in two threads at once wrongly
                "--request-timeout=60",
                "--request-retries=2",  # of a connection that was closed while it was idle
                "--rate-limit=auto",  # a quick machine asks faster than a caller may
                *(f"--exclude-path={path}" for path in ENDLESS),
                "--suppress-health-check=all",
                "--warnings=off",
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

    assert done.returncode == 0, failures_in(done.stdout) + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed is not None
    assert passed[1] == passed[2]
    assert int(passed[1]) > weekly(1000, otherwise=100)


def shorten_texts(schema: Any) -> None:
    """Lower each `maxLength` in place to what is quickly made up."""
    if isinstance(schema, dict):
        longest = schema.get("maxLength")
        if isinstance(longest, int):
            schema["maxLength"] = min(longest, LONGEST_TEXT)
        for value in schema.values():
            shorten_texts(value)
    elif isinstance(schema, list):
        for value in schema:
            shorten_texts(value)


def failures_in(output: str) -> str:
    """What Schemathesis found, from its first finding on; generated values are cut short."""
    start = re.search(r"^=+ (ERRORS|FAILURES) =+$", output, re.MULTILINE)
    found = output[start.start() :] if start else output
    return "\n".join(line[:600] for line in found.splitlines())[:20_000]
