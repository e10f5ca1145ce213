"""The console's files beside the API, as CloudFront serves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minutehand.config import Settings
from minutehand.local.breaking import break_token
from minutehand.local.lambda_runtime.__main__ import local_site
from minutehand.local.lambda_runtime.site import Site
from minutehand.local.lambda_runtime.wire import Request
from minutehand.local.site import console_config
from minutehand.web.site import security_headers


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "secret.txt").write_text("outside")
    console, vendor = tmp_path / "console", tmp_path / "vendor"
    console.mkdir()
    vendor.mkdir()
    (console / "index.html").write_text("<p>hello</p>")
    (console / "app.js").write_text("run()")
    (vendor / "lib.js").write_text("lib()")
    return Site({"/": console, "/vendor/lib/": vendor}, {"stage": "local"})


def get(site: Site, path: str) -> tuple[int, bytes, str]:
    answer = site(Request("GET", path, (), b""))
    return answer.status, answer.body, dict(answer.headers)["content-type"]


def test_files_come_with_their_types(site: Site) -> None:
    """A browser refuses a module that is not JavaScript."""
    assert get(site, "/") == (200, b"<p>hello</p>", "text/html")
    assert get(site, "/app.js")[2] in {"text/javascript", "application/javascript"}
    assert get(site, "/vendor/lib/lib.js")[1] == b"lib()"
    assert get(site, "/config.json")[1] == b'{"stage": "local"}'


def test_a_path_of_the_consoles_router_gets_its_page(site: Site) -> None:
    """A link to a job works when it is opened first."""
    assert get(site, "/jobs/1a2b")[1] == b"<p>hello</p>"
    assert get(site, "/parts/nothing.js")[0] == 404
    assert get(site, "/vendor/lib/nothing")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/vendor/lib/../../secret.txt", "//etc/host.conf"],
)
def test_nothing_outside_its_folders_is_served(site: Site, path: str) -> None:
    """Not even on loopback."""
    assert get(site, path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "served"),
    [
        ("GET", "/", True),
        ("GET", "/api/jobs", False),
        ("GET", "/health", False),
        ("POST", "/app.js", False),
    ],
)
def test_the_api_keeps_its_paths(site: Site, method: str, path: str, served: bool) -> None:
    """One origin, two servants."""
    assert site.serves(Request(method, path, (), b"")) is served


VALUES = {
    "SUPABASE_URL": "http://127.0.0.1:5",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_test",
    "SUPABASE_JWT_SECRET": "a-secret-of-thirty-two-characters-or-more",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:6/none",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:7",
    "DEMO_EMAIL": "ada@acme.test",
}


def test_the_console_is_the_one_processs_console() -> None:
    """Demo accounts, the panel's token and the same policy, whoever runs the functions."""
    site = local_site(VALUES)
    config = json.loads(site(Request("GET", "/config.json", (), b"")).body)
    page = dict(site(Request("GET", "/jobs/1", (), b"")).headers)

    settings = Settings.from_env({**VALUES, "STAGE": "local"})
    assert config == console_config(settings, VALUES)
    assert config["demoAccounts"]
    assert config["breakToken"]
    expected = security_headers(settings, VALUES)
    assert {name: page[name.lower()] for name in expected} == expected


async def test_only_the_consoles_own_page_may_break_the_stack() -> None:
    """Another name, another token, another method: refused before anything is done."""
    site = local_site(VALUES)
    token = break_token(VALUES)

    async def post(way: str, given: str, host: str = "127.0.0.1:8000", method: str = "POST") -> int:
        headers = (("host", host), ("x-break-token", given))
        request = Request(method, f"/local/break/{way}", headers, b"")
        assert site.serves(request)
        return (await site.answer(request)).status

    assert await post("kill-worker", "") == 403
    assert await post("kill-worker", "ünlike") == 403
    assert await post("kill-worker", token, host="rebound.example") == 403
    assert await post("kill-worker", token, method="GET") == 404
    assert await post("everything", token) == 404
    assert await post("kill-worker", token, host="localhost:8000") == 409  # none is running here
