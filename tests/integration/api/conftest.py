"""API of a project of the test, whose worker runs only on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from tests.contract.api import Api, serving_api
from tests.support.project import Project
from tests.support.renewed import Renewed


@pytest.fixture
async def api(renewed: Renewed) -> AsyncIterator[Api]:
    """The API over real sockets, with streams that stay open. Its engine has one type."""
    settings = scratch_settings(renewed.gateway.url).model_copy(
        update={"apps": (), "streaming": True}
    )
    async with serving_api(Project(settings, renewed)) as made:
        made.engine.register("work", lease_seconds=60)
        yield made


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Check that the error body is complete and matches its header, and return it."""
    body: dict[str, Any] = response.json()
    assert set(body) == {"error", "code", "detail", "request_id"}, body
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body
