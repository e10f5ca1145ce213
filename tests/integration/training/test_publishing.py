"""The video host: sent once, resumed, waited for, cancelled, deleted; by the real client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.config import Settings
from tests.integration.training.conftest import SAMPLE, QuickEar, Studio
from tests.support.project import Project
from tests.unit.training.mux_server import Fault, MuxServer


@pytest.fixture
async def host() -> AsyncIterator[MuxServer]:
    """The video host."""
    async with MuxServer() as running:
        yield running


@pytest.fixture
async def studio(
    project: Project, settings: Settings, ear: QuickEar, host: MuxServer
) -> AsyncIterator[Studio]:
    """The app with a video host."""
    online = host.known_to(settings)
    async with Studio(project, online, speech=ear).open() as studio:
        yield studio


async def test_a_video_is_published_and_deleted_at_the_host(
    studio: Studio, host: MuxServer
) -> None:
    """It is waited for without spending attempts, and goes with its training."""
    host.asset_status = "preparing"
    training = await studio.start()
    await studio.until(training, lambda state: state["host_asset"] is not None)
    host.assets[next(iter(host.assets))]["status"] = "ready"

    state = await studio.ended(training)
    video = (await studio.call("GET", f"/api/trainings/{training['id']}/video")).json()
    [publish] = studio.project.rows(
        "select attempts from public.jobs where job_type = 'training_publish'"
    )
    await studio.call("DELETE", f"/api/trainings/{training['id']}")
    await studio.tick_until_so(lambda: not host.assets)

    assert state["status"] == "completed"
    assert host.received["upload1"] == SAMPLE.read_bytes()
    assert (video["host"], video["playback_id"]) == ("mux", "playback-of-upload1")
    assert publish["attempts"] == 1
    assert host.assets == {}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(401, {"error": {"messages": ["no"]}}), "host_not_authorised"),
        (Fault(422, {"error": {"messages": ["bad settings"]}}), "host_refused"),
    ],
    ids=["401", "422"],
)
async def test_a_refusal_fails_the_last_stage_alone(
    studio: Studio, host: MuxServer, ear: QuickEar, fault: Fault, code: str
) -> None:
    """The procedure is there and stays; going on publishes, and does nothing else again."""
    host.faults["POST uploads"] = [fault]
    training = await studio.start()

    failed = await studio.ended(training)
    heard = len(ear.heard)
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert (failed["status"], failed["code"], failed["version"]) == ("failed", code, 1)
    assert (done["status"], done["version"], len(ear.heard)) == ("completed", 1, heard)
    assert {s["name"]: s["run"] for s in done["stages"]} == {
        "verify": 1, "audio": 1, "transcribe": 1, "procedure": 1, "publish": 2,
    }  # fmt: skip


async def test_a_host_in_trouble_is_asked_again(studio: Studio, host: MuxServer) -> None:
    """429, a cut body, 500 again and again: one training, published once in the end."""
    host.faults["POST uploads"] = [Fault(429, {}, {"retry-after": "60"}), Fault(cut=True)]
    host.faults["PUT storage"] = [Fault(500)] * 3
    training = await studio.start()

    state = await studio.ended(training)

    assert state["status"] == "completed", state["reason"]
    assert len(host.assets) == 1
    # the one whose answer broke off is nobody's, and ends by itself at the host
    assert [upload["status"] for upload in host.uploads.values()] == ["waiting", "asset_created"]


async def test_a_lapsed_upload_is_begun_anew(studio: Studio, host: MuxServer) -> None:
    """Its address is good for some hours; a job may wait longer."""
    host.lapsed.add("upload1")
    training = await studio.start()

    state = await studio.ended(training)

    assert state["status"] == "completed", state["reason"]
    assert host.received["upload2"] == SAMPLE.read_bytes()


async def test_a_cancel_ends_the_upload_at_the_host(studio: Studio, host: MuxServer) -> None:
    """Cancelled half-sent: the host is told, and a later run sends it anew."""
    host.faults["PUT storage"] = [Fault(500)] * 3
    training = await studio.start()
    await studio.until(training, lambda _: not host.faults["PUT storage"])

    await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    await studio.tick_until_so(lambda: host.uploads["upload1"]["status"] == "cancelled")
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert host.uploads["upload1"]["status"] == "cancelled"
    assert done["status"] == "completed"
    assert host.received["upload2"] == SAMPLE.read_bytes()
