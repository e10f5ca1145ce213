"""A deployment that lacks something, or whose AWS is unavailable, says so instead of breaking."""

from __future__ import annotations

from typing import Any

import pytest

from minutehand.config import Settings
from minutehand.local.ports import reserve_port
from tests.integration.enrichment.conftest import INITECH, Office
from tests.support.project import ACME, Project

PATH = f"/api/workspaces/{ACME}/settings"


@pytest.mark.parametrize(
    ("lacking", "method", "path", "options"),
    [
        ({"sealing_key_file": None}, "PUT", PATH, {"json": {"apollo_api_key": "test-key-1"}}),
        (
            {"uploads_bucket": None},
            "POST",
            "/api/accounts/import",
            {"data": {"workspace_id": ACME}, "files": {"file": ("a.csv", b"domain\n")}},
        ),
        (
            {"uploads_bucket": None},
            "POST",
            "/api/accounts/import/upload",
            {"json": {"workspace_id": ACME, "total_bytes": 9}},
        ),
    ],
)
async def test_what_is_not_configured_is_a_503_that_says_so(
    settings: Settings,
    project: Project,
    lacking: dict[str, None],
    method: str,
    path: str,
    options: dict[str, Any],
) -> None:
    """A 500 would send people looking for a bug instead of a variable."""
    async with Office(settings.model_copy(update=lacking), project).open() as office:
        answer = await office.call(method, path, **options)

    assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")


async def test_storage_that_is_unavailable_is_a_503(settings: Settings, project: Project) -> None:
    """The upload may be repeated as it is."""
    nowhere = f"http://127.0.0.1:{reserve_port()}"
    async with Office(
        settings.model_copy(update={"aws_endpoint_url": nowhere}), project
    ).open() as office:
        answer = await office.call(
            "POST",
            "/api/accounts/import",
            data={"workspace_id": ACME},
            files={"file": ("a.csv", b"domain\n")},
        )

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


async def test_a_key_service_that_is_unavailable_lets_a_job_wait(
    settings: Settings, project: Project
) -> None:
    """Inside a job it is one more passing fault."""
    away = {
        "kms_key_id": "alias/somewhere",
        "aws_endpoint_url": f"http://127.0.0.1:{reserve_port()}",
    }
    async with Office(settings, project).open() as office:
        await office.call("PUT", PATH, json={"apollo_api_key": "test-key-sealed-1"})
    async with Office(settings.model_copy(update=away), project).open() as office:
        job = await office.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("pending", 1)
