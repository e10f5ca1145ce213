"""A sixth app, as a newcomer writes it from the library's parts: no more lines than it teaches.

Its workers die behind each write, and its reader is a guest with a link.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand.worker import Registry
from tests.integration.newcomer import memos
from tests.integration.newcomer.memos.processors import register
from tests.integration.training.conftest import BUCKET, s3_server
from tests.support.harness import AppHarness
from tests.support.misbehaving import MisbehavingServer, Request, write
from tests.support.paths import ROOT
from tests.support.project import ACME, Project, project_of_a_room
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import KEY, ModelServer

__all__ = ["s3_server"]

HOME = Path(memos.__file__).parent
NOTE = b"The hedge is planted. Water it on Friday."
SHA256 = hashlib.sha256(NOTE).hexdigest()
MOST_LINES = 600


def test_the_page_shows_what_runs_here() -> None:
    """Each of its examples is a piece of this app."""
    page = (ROOT / "shared/minutehand/pages/app.md").read_text("utf-8")
    app = "".join(each.read_text("utf-8") for each in HOME.glob("*.py"))
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert len(blocks) == 6
    plain = "".join(app.split())
    assert [each for each in blocks if "".join(each.split()) not in plain] == []


class WeatherServer(MisbehavingServer):
    """Foreign: `/away` is unavailable, `/here` takes work and is still at it when first asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.asked.append(f"{request.method} {request.target}")
        state = "completed" if self.asked[-1] == self.asked[-2:][0] else "running"
        status = 503 if request.target.startswith("/away") else 200
        write(writer, status, {"id": "7", "state": state, "weather": "dry"})

    @property
    def urls(self) -> str:
        """What WEATHER_URLS holds."""
        return f"{self.origin}/away {self.origin}/here"


@pytest.fixture(scope="module")
def project(renewed_project: Renewed) -> Project:
    """A database with the app's migration, and guests let in."""
    made = project_of_a_room(renewed_project, "allow_anonymous")
    for migration in sorted((HOME / "migrations").iterdir()):
        made.run_sql(migration.read_text("utf-8"))
    made.run_sql("notify pgrst, 'reload schema'")
    known = made.settings.supabase_url + "/rest/v1/rpc/memo_start"
    headers = {"apikey": made.settings.supabase_publishable_key}
    named = {"p_workspace_id": ACME, "p_key": "", "p_title": ""}
    while httpx.post(known, json=named, headers=headers).status_code == 404:
        time.sleep(0.02)  # until the Data API has read the new schema
    return made


async def upload(app: AppHarness) -> dict[str, Any]:
    """What a browser does: begin, have the part signed, send it, complete it twice."""
    described = {"filename": "the_hedge.txt", "content_type": "text/plain", "size": len(NOTE)}
    refused = await app.call("POST", "/uploads", json={**described, "content_type": "text/html"})
    assert (refused.status_code, refused.json()["code"]) == (415, "upload_type_refused")
    begun = await app.call("POST", "/uploads", json={**described, "workspace_id": ACME})
    assert begun.status_code == 201, begun.text
    path = f"/uploads/{begun.json()['id']}"
    to_sign = {"parts": [{"part_number": 1, "checksum": SHA256}]}
    [part] = (await app.call("POST", f"{path}/parts", json=to_sign)).json()["parts"]
    async with httpx.AsyncClient() as browser:
        sent = await browser.put(part["url"], content=NOTE, headers=part["headers"])
    assert sent.status_code == 200, sent.text
    done, again = [
        await app.call("POST", f"{path}/complete", json={"checksum": SHA256}) for _ in range(2)
    ]
    assert done.status_code == 200, done.text
    assert done.json() == again.json()
    made: dict[str, Any] = done.json()
    return made


@pytest.mark.timeout(600)  # a dozen workers, one after the other
async def test_an_app_of_a_newcomer_survives_a_kill_in_each_stage(
    project: Project, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upload, three stages with a remote call and a model, a live page, and guests."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    async with ModelServer() as model, WeatherServer() as weather:
        model.answers = {"memo": {"headline": "<Hedge>", "points": ["Water it"]}}
        settings = model.known_to(project.settings).model_copy(
            update={
                "allow_anonymous": True,
                "apps": (memos.__name__,),
                "uploads_bucket": BUCKET,
                "aws_endpoint_url": s3_server,
            }
        )
        registry = Registry()
        register(registry, settings)
        app = AppHarness(project, settings, registry)
        app.below = "/api/memos"
        async with app.open():
            made = await upload(app)
            link = f"/{made['session_id']}"

            async def ended() -> bool:
                state = await app.call("GET", link, user=None)
                assert state.status_code == 200, state.text
                return bool(state.json()["status"] == "completed")

            deaths = await app.survive(
                "memos",
                ended,
                MINUTEHAND_APPS=memos.__name__,
                UPLOADS_BUCKET=BUCKET,
                AWS_ENDPOINT_URL=s3_server,
                LANGUAGE_MODEL_URL=model.url,
                LANGUAGE_MODEL_KEY=KEY,
                LANGUAGE_MODEL="test-model",
                WEATHER_URLS=weather.urls,
                **keys,
            )
            memo = (await app.call("GET", link, user=None)).json()
            page = await app.call("GET", f"{link}/page", user=None)
            app.below = ""
            other = await app.call("GET", f"/api/memos/guest_{'0' * 64}", user=None)

    for write_ in ("step read", "step weather", "step look_up", "step write"):
        assert any(write_ in death for death in deaths), (write_, deaths)
    assert model.paid["memo"] == 1
    # a worker that dies for the other stage's write may have asked already: asked again then
    assert list(dict.fromkeys(weather.asked)) == ["POST /away", "POST /here", "GET /here/7"]
    assert memo["result"] == {"headline": "<Hedge>", "points": ["Water it"]}
    assert f'EventSource("/api/sessions/{made["session_id"]}/events")' in page.text
    assert (other.status_code, other.json()["code"]) == (404, "session_not_found")
    files = [*HOME.rglob("*.py"), *HOME.rglob("*.sql"), Path(__file__)]
    assert sum(len(each.read_text("utf-8").splitlines()) for each in files) <= MOST_LINES
