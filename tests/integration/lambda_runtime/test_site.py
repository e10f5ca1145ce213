"""The console's files beside the API, as CloudFront serves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.lambda_runtime.site import Site
from infra.local.lambda_runtime.wire import Request


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
