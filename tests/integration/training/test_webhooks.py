"""The video host's webhooks: signed, taken once, in any order; polling goes on beside them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from tests.integration.training.conftest import QuickEar, Studio
from tests.support.project import Project
from tests.unit.training.mux_server import MuxServer

SECRET = "whsec-of-tests"
PATH = "/api/trainings/webhooks/mux"


@pytest.fixture
async def studio(
    project: Project, settings: Settings, ear: QuickEar, host: MuxServer
) -> AsyncIterator[Studio]:
    """The app with a video host that sends webhooks."""
    online = host.known_to(settings).with_environ(
        **host.known_to(settings).environ, MUX_WEBHOOK_SECRET=SECRET
    )
    async with Studio(project, online, speech=ear).open() as studio:
        yield studio


async def send(studio: Studio, event: dict[str, Any], *, secret: str = SECRET) -> httpx.Response:
    """Send an event as Mux does; what of a signature counts is unit/web/test_incoming.py's."""
    body = json.dumps(event).encode()
    stamp = int(time.time())
    signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {
        "Mux-Signature": f"t={stamp},v1={signature}", "Content-Type": "application/json",
    }  # fmt: skip
    return await studio.call("POST", PATH, user=None, content=body, headers=headers)


def event(kind: str, training: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {
        "id": f"event-{number}",
        "type": f"video.asset.{kind}",
        "data": {"id": "asset-of-upload1", "upload_id": "upload1", "passthrough": training["id"]},
    }


async def test_a_webhook_ends_the_wait_for_the_host(studio: Studio, host: MuxServer) -> None:
    """Without it the job would look again only later; a repeat changes nothing."""
    host.asset_status = "preparing"
    training = await studio.start()
    await studio.until(training, lambda state: state["host_asset"] is not None)
    await studio.until(
        training, lambda _: studio.job(training, "mux_upload")["next_retry_at"] is not None
    )
    studio.project.run_sql(  # as if it had been told to wait for long
        "update public.jobs set next_retry_at = now() + interval '1 hour' where id = %s",
        studio.job(training, "mux_upload")["id"],
    )
    host.assets[next(iter(host.assets))]["status"] = "ready"

    taken = await send(studio, event("ready", training))
    woken = studio.job(training, "mux_upload")
    again = await send(studio, event("ready", training))
    state = await studio.ended(training)

    assert (taken.status_code, taken.json()) == (200, {"known": True, "repeated": False})
    assert woken["next_retry_at"] is None
    assert again.json() == {"known": True, "repeated": True}
    assert state["status"] == "completed"


async def test_events_in_a_wrong_order_decide_nothing(studio: Studio, host: MuxServer) -> None:
    """An old error arrives behind the end: the host is asked, and the video stays published."""
    training = await studio.start()
    early = await send(studio, event("ready", training, 7))
    state = await studio.ended(training)
    late = await send(studio, event("errored", training, 8))
    after = await studio.look(training)

    assert (early.status_code, late.status_code) == (200, 200)
    assert (state["status"], after["status"]) == ("completed", "completed")
    assert len(host.assets) == 1


async def test_only_signed_events_are_taken(studio: Studio) -> None:
    """A forged and an unsigned one are refused; other events are of no interest."""
    training = await studio.start()
    forged = await send(studio, event("ready", training), secret="whsec-of-another")
    bare = await studio.call("POST", PATH, user=None, json=event("ready", training))
    other = await send(studio, {"id": "x", "type": "video.live_stream.active", "data": {}})
    strange = await send(studio, event("ready", {"id": "0" * 36}) | {"data": {"id": "unknown"}})

    assert (forged.status_code, bare.status_code) == (401, 401)
    assert forged.json()["error"] == "Unauthorized"
    assert other.json() == strange.json() == {"known": False, "repeated": False}
