"""The console beside the API, as CloudFront serves it and the one-process stack does."""

from __future__ import annotations

import httpx
import pytest

from minutehand.config import Settings
from minutehand.local.lambda_functions import beside_api, local_site
from minutehand.local.site import console_config
from minutehand.web.site import security_headers
from supabase_local.http import Request, ask
from supabase_local.lambda_runtime import LambdaRuntime

VALUES = {
    "SUPABASE_URL": "http://127.0.0.1:5",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_test",
    "SUPABASE_JWT_SECRET": "a-secret-of-thirty-two-characters-or-more",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:6/none",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:7",
    "DEMO_EMAIL": "ada@acme.test",
}


async def test_the_console_is_the_one_processs_console() -> None:
    """Demo accounts and the same policy, whoever runs the functions."""
    settings = Settings.from_env({**VALUES, "STAGE": "local"})
    async with (
        LambdaRuntime([], site=beside_api(local_site(VALUES))) as runtime,
        httpx.AsyncClient(base_url=runtime.url, timeout=60) as client,
    ):
        config = (await client.get("/config.json")).json()
        page = await client.get("/jobs/1")
        head = await client.head("/jobs/1")
        api = await client.get("/api/jobs/1")

    assert config == console_config(settings, VALUES)
    assert config["demoAccounts"]
    expected = security_headers(settings, VALUES)
    assert {name: page.headers[name] for name in expected} == expected
    assert (head.status_code, head.content) == (200, b"")
    assert (api.status_code, api.json()) == (404, {"message": "Not Found"})  # API Gateway's


@pytest.mark.parametrize(
    "path", ["/%2e%2e/README.md", "/vendor/preact/../../package.json", "//etc/host.conf"]
)
async def test_nothing_outside_its_folders_is_served(path: str) -> None:
    """Not even on loopback."""
    answer = await ask(local_site(VALUES), Request("GET", path))

    assert answer.status == 404 or b'id="app"' in answer.body
