"""Which addresses are pages of the console, by the two servers that answer them."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from minutehand.config import Settings
from minutehand.web.site import ConsoleFiles, security_headers

PAGES = ("/jobs", "/jobs/1a2b", "/types/greetings.send", "/types/report.js", "/queues/a.b/")
FILES = ("/nothing.js", "/favicon.ico", "/lib/nothing.js", "/parts/x", "/apps/chat/nothing.js")
CLOUDFRONT = """
const source = require("fs").readFileSync(process.argv[1], "utf8");
const handler = new Function(`${source}; return handler`)();
const uris = JSON.parse(process.argv[2]);
console.log(JSON.stringify(uris.map((uri) => handler({ request: { uri } }).uri)));
"""


@pytest.fixture
def console(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("the console")
    return tmp_path


async def test_one_process_answers_pages_of_dotted_names(console: Path) -> None:
    """A job type's page is opened by a link and survives a reload; a missing script is a 404."""
    app = Starlette(routes=[Mount("/", ConsoleFiles(console, {}))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
        pages = [(await client.get(path)).text for path in PAGES]
        missing = [(await client.get(path)).status_code for path in FILES]
        posted = await client.post(PAGES[0])

    assert posted.status_code == 405, "a page is read, and nothing else"
    assert pages == ["the console"] * len(PAGES)
    assert missing == [404] * len(FILES)


async def test_a_page_carries_the_policy_and_its_parts_come_in_brotli(
    console: Path, settings: Settings
) -> None:
    """A script runs under its page's policy; a proxy must not mix up the encodings."""
    script = "const answer = 42;" * 9
    (console / "app.js").write_text(script)
    (console / "logo.png").write_bytes(b"png")
    (console / "app.css").write_text(script)
    environ = {"AWS_ENDPOINT_URL": "http://s3.test", "API_URL": "http://api.test"}
    headers = security_headers(settings, environ)
    app = Starlette(routes=[Mount("/", ConsoleFiles(console, headers))])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://console"
    ) as client:
        page, part, image = [
            await client.get(path, headers={"accept-encoding": "gzip, br"})
            for path in ("/", "/app.js", "/logo.png")
        ]
        plain = await client.get("/app.js", headers={"accept-encoding": "gzip"})
        head = await client.head("/app.js", headers={"accept-encoding": "br"})
        style = await client.get("/app.css", headers={"accept-encoding": "gzip"})
        (console / "app.js").write_text("const answer = 43;")
        os.utime(console / "app.js", (0, 0))
        changed = await client.get("/app.js", headers={"accept-encoding": "br"})

    policy = page.headers["content-security-policy"]
    own, url = "https://project.example.test", "project.example.test"
    assert f"connect-src 'self' {own} wss://{url} http://s3.test;" in policy
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:" in policy
    assert "img-src 'self' data: http://s3.test; font" in policy
    assert "media-src 'self' http://s3.test; connect" in policy
    assert "frame-src 'self' http://api.test;" in policy
    assert "camera=()" in page.headers["permissions-policy"]
    for bound in ("font-src", "media-src", "manifest-src", "frame-src"):
        assert f"{bound} 'self'" in policy
    for closed in ("base-uri", "form-action", "frame-ancestors"):
        assert f"{closed} 'none'" in policy
    assert {name: page.headers[name] for name in headers if "Policy" not in name} == {
        "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-cache",
    }  # fmt: skip
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    local = security_headers(settings.model_copy(update={"supabase_url": "http://a.test"}), {})
    assert " ws://a.test;" in local["Content-Security-Policy"]
    assert (page.text, part.text, plain.text) == ("the console", script, script)
    assert (part.headers["content-encoding"], part.headers["vary"]) == ("br", "Accept-Encoding")
    assert (part.headers["etag"], part.headers["content-type"]) == (
        plain.headers["etag"], plain.headers["content-type"],
    )  # fmt: skip
    assert changed.text == "const answer = 43;", "packed again"
    assert not any("content-security-policy" in each.headers for each in (part, style))
    assert part.headers["x-content-type-options"] == "nosniff"
    assert not any("content-encoding" in each.headers for each in (plain, image, head))
