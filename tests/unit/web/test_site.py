"""Which addresses are pages of the console, by the two servers that answer them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from minutehand.node import node_binary
from minutehand.web.site import FOLDERS, ConsoleFiles
from tests.support.paths import ROOT

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

    assert pages == ["the console"] * len(PAGES)
    assert missing == [404] * len(FILES)


def test_cloudfront_answers_the_same() -> None:
    """The function that a deploy publishes, run as it is."""
    others = [*FILES, "/api/jobs", "/api", "/health", "/vendor/preact/x"]
    command = [str(node_binary()), "-e", CLOUDFRONT, str(ROOT / "infra/aws/pages.js")]
    done = subprocess.run(
        [*command, json.dumps([*PAGES, *others])], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == ["/index.html"] * len(PAGES) + others


def test_every_folder_of_the_console_s_files_is_known() -> None:
    """A new one would be served as pages."""
    console = ROOT / "infra" / "console"
    folders = {path.parent.relative_to(console).parts[0] for path in console.glob("*/**/*.js")}

    assert folders - {"npm"} <= FOLDERS
