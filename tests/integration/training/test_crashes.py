"""Workers that die behind each of their writes: nothing is transcribed, sent or written twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from minutehand.config import Settings
from tests.integration.training.conftest import BUCKET, Studio
from tests.support.project import Project
from tests.unit.ai.speech_server import SpeechServer
from tests.unit.training.mux_server import MuxServer
from tests.unit.training.test_media import THRICE, make


@pytest.fixture
async def ears() -> AsyncIterator[SpeechServer]:
    """Speech to text."""
    async with SpeechServer() as running:
        yield running


@pytest.fixture
async def studio(
    project: Project, settings: Settings, ears: SpeechServer, host: MuxServer
) -> AsyncIterator[Studio]:
    """The app with both services."""
    online = host.known_to(ears.known_to(settings))
    async with Studio(project, online).open() as studio:
        yield studio


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_transcribe_once_and_leave_the_host_one_video(
    studio: Studio, ears: SpeechServer, host: MuxServer, tmp_path: Path
) -> None:
    """A recording of three stretches, each transcribed by another worker."""
    long = await asyncio.to_thread(make, tmp_path / "long.mp4", *THRICE)
    training = await studio.start(long.read_bytes())
    settings = studio.settings

    async def ended() -> object:
        return (await studio.look(training))["status"] in {"completed", "failed"}

    deaths = await studio.survive(
        "training",
        ended,
        WORKER_CONCURRENCY="1",  # what another job's end cut off would be sent twice, rightly
        SPEECH_URL=settings.speech_url,
        SPEECH_KEY=settings.speech_key,
        SPEECH_MODEL=settings.speech_model,
        **settings.environ,
        UPLOADS_BUCKET=BUCKET,
        AWS_ENDPOINT_URL=settings.aws_endpoint_url,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
    )

    state = await studio.look(training)
    assert state["status"] == "completed", state["reason"]
    assert state["run"] == 1
    assert len(ears.seen) == 3
    assert list(host.uploads) == ["upload1"]
    assert host.received["upload1"] == long.read_bytes()
    for stage in ("verify", "audio", "transcribe", "procedure", "publish"):
        assert any(f'"name": "{stage}"' in death for death in deaths), (stage, deaths)
