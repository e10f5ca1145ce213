"""The video host: sent once, resumed, waited for, cancelled, deleted; by the real client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from minutehand.config import Settings
from minutehand_apps.training import stages
from minutehand_apps.training.mux import Mux
from tests.integration.training.conftest import SAMPLE, QuickEar, Studio
from tests.support.misbehaving import Fault
from tests.support.project import Project
from tests.unit.training.mux_server import TOKEN_ID, TOKEN_SECRET, MuxServer


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
        "select attempts from public.jobs where job_type = 'mux_upload'"
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


async def test_an_expired_upload_is_begun_again(studio: Studio, host: MuxServer) -> None:
    """Its address is good for some hours; a job may wait longer."""
    host.expired.add("upload1")
    training = await studio.start()

    state = await studio.ended(training)

    assert state["status"] == "completed", state["reason"]
    assert host.received["upload2"] == SAMPLE.read_bytes()


async def test_a_cancel_ends_the_upload_at_the_host(studio: Studio, host: MuxServer) -> None:
    """Cancelled half-sent: the host is told, and a later run sends it anew."""
    faults = host.faults["PUT storage"] = [Fault(500)] * 1000
    training = await studio.start()
    await studio.until(training, lambda _: len(faults) < 1000)

    await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    await studio.tick_until_so(lambda: host.uploads["upload1"]["status"] == "cancelled")
    faults.clear()
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert host.uploads["upload1"]["status"] == "cancelled"
    assert done["status"] == "completed"
    assert host.received["upload2"] == SAMPLE.read_bytes()


async def test_an_upload_the_host_cannot_use_is_sent_once(
    studio: Studio, host: MuxServer, ear: QuickEar
) -> None:
    """It fails with the reason, at once; going on sends another and leaves none behind."""
    host.spoiled = "errored"
    training = await studio.start()

    failed = await studio.ended(training)
    sent = list(host.uploads)
    host.spoiled = None
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)

    assert (failed["status"], failed["code"], sent) == ("failed", "host_refused", ["upload1"])
    assert done["status"] == "completed", done["reason"]
    assert list(host.assets) == ["asset-of-upload2"]


async def test_a_video_made_while_it_was_cancelled_is_not_paid_for_twice(
    studio: Studio, host: MuxServer
) -> None:
    """Nobody had noted the video yet; the next run finds it by its upload, and so does deletion."""
    host.faults["PUT storage"] = [Fault(500)] * 3
    training = await studio.start()
    await studio.until(training, lambda _: not host.faults["PUT storage"])
    size = len(SAMPLE.read_bytes())
    host._store("upload1", f"bytes 0-{size - 1}/{size}", SAMPLE.read_bytes())

    await studio.call("POST", f"/api/trainings/{training['id']}/cancel")
    await studio.tick_until_so(lambda: "PUT uploads" in host.calls)
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)
    made = (list(host.uploads), list(host.assets))
    await studio.call("DELETE", f"/api/trainings/{training['id']}")
    await studio.tick_until_so(lambda: not host.assets)

    assert done["status"] == "completed", done["reason"]
    assert made == (["upload1"], ["asset-of-upload1"])


@pytest.mark.parametrize("what", ["lost", "errored"])
async def test_another_video_takes_the_place_of_one_that_is_no_good(
    studio: Studio, host: MuxServer, what: str
) -> None:
    """Gone at the host, or of no use there: going on must not find the same one for ever."""
    host.asset_status = "preparing"
    training = await studio.start()
    await studio.until(training, lambda state: state["host_asset"] is not None)
    if what == "lost":
        host.assets.clear()
    else:
        host.assets["asset-of-upload1"]["status"] = "errored"
    failed = await studio.ended(training)

    host.asset_status = "ready"
    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    done = await studio.ended(training)
    await studio.tick_until_so(lambda: list(host.assets) == ["asset-of-upload2"])

    assert failed["code"] == ("host_lost" if what == "lost" else "host_refused")
    assert (done["status"], done["host_asset"]) == ("completed", "asset-of-upload2")


async def test_files_go_though_the_host_refuses(studio: Studio, host: MuxServer) -> None:
    """Its token was taken back: what lies in the bucket is deleted all the same."""
    before = studio.objects()
    training = await studio.start()
    await studio.ended(training)
    host.faults["DELETE assets"] = [Fault(401, {"error": {"messages": ["no"]}})]

    await studio.call("DELETE", f"/api/trainings/{training['id']}")
    await studio.tick_until_so(lambda: not host.faults["DELETE assets"])

    assert studio.objects() == before


async def test_a_video_deleted_before_it_was_published_is_reported(
    studio: Studio, host: MuxServer
) -> None:
    """It is the video and not its cut sound: nothing is cut anew for it."""
    host.faults["POST uploads"] = [Fault(401, {"error": {"messages": ["no"]}})]
    training = await studio.start()
    await studio.ended(training)
    [row] = studio.project.rows(
        "select object_key from public.trainings where id = %s", training["id"]
    )
    await studio.app.files.remove(keys=[row["object_key"]], prefix=None)

    await studio.call("POST", f"/api/trainings/{training['id']}/retry")
    failed = await studio.ended(training)

    assert (failed["status"], failed["code"]) == ("failed", "video_missing")


async def test_a_large_video_is_sent_in_as_many_ticks_as_it_takes(
    project: Project,
    settings: Settings,
    ear: QuickEar,
    host: MuxServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where one tick's time ends the next goes on, though there are more than attempts."""
    monkeypatch.setattr(stages, "SPARE_SECONDS", 1e9)  # each tick has time for one piece
    small = Mux(TOKEN_ID, TOKEN_SECRET, base_url=host.url, piece_bytes=11_000)
    async with Studio(project, settings, speech=ear, host=small).open() as studio:
        training = await studio.start()
        state = await studio.ended(training)
        [publish] = studio.project.rows(
            "select attempts, snoozes from public.jobs where job_type = 'mux_upload'"
        )

    assert state["status"] == "completed", state["reason"]
    assert publish["snoozes"] >= 6 > publish["attempts"]
    [whole] = [upload["id"] for upload in host.uploads.values() if "asset_id" in upload]
    assert bytes(host.received[whole]) == SAMPLE.read_bytes()
    await small.aclose()
