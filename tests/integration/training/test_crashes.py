"""A worker killed in the middle: another goes on behind what was stored, and repeats nothing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from minutehand.apps.training.media import find_ffmpeg
from minutehand.apps.training.settings import TrainingSettings
from minutehand.config import Settings
from tests.integration.training.conftest import BUCKET, SAMPLE, Studio
from tests.support.killable import Killable, until
from tests.support.misbehaving import Fault
from tests.support.project import Project
from tests.unit.ai.speech_server import SpeechServer
from tests.unit.training.mux_server import MuxServer


@pytest.fixture
async def ears() -> AsyncIterator[SpeechServer]:
    """Speech to text."""
    async with SpeechServer() as running:
        yield running


@pytest.fixture
async def host() -> AsyncIterator[MuxServer]:
    """The video host."""
    async with MuxServer() as running:
        yield running


@pytest.fixture
async def studio(
    project: Project, settings: Settings, ears: SpeechServer, host: MuxServer
) -> AsyncIterator[Studio]:
    """The app with both services."""
    online = host.known_to(ears.known_to(settings))
    async with Studio(project, online).open() as studio:
        yield studio


@pytest.fixture
def killable(studio: Studio) -> Iterator[Killable]:
    """Workers of this app that die."""
    settings = studio.settings
    with Killable(
        studio.project,
        "training",
        SPEECH_URL=settings.speech_url,
        SPEECH_KEY=settings.speech_key,
        SPEECH_MODEL=settings.speech_model,
        **settings.environ,
        UPLOADS_BUCKET=BUCKET,
        AWS_ENDPOINT_URL=settings.aws_endpoint_url,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
    ) as made:
        yield made


async def test_a_killed_worker_costs_the_stretch_under_way(
    studio: Studio, ears: SpeechServer, killable: Killable, tmp_path: Path
) -> None:
    """Two of three stretches are stored as it dies; only the third is heard again."""
    long = tmp_path / "long.mp4"
    ffmpeg = await asyncio.to_thread(find_ffmpeg, TrainingSettings())
    command = [ffmpeg, "-v", "error", "-stream_loop", "3", "-i", str(SAMPLE), "-c", "copy"]
    await asyncio.to_thread(subprocess.run, [*command, str(long)], check=True)
    ears.faults = [Fault(hang=True)]
    training = await studio.start(long.read_bytes())
    killable.start()
    await until(
        lambda: (
            studio.project.rows("select 1 from public.training_chunks offset 1")
            and ears.reached.is_set()
        )
    )
    killable.kill()
    asked = len(ears.seen)

    state = await studio.ended(training, others_died=True)

    assert state["status"] == "completed", state["reason"]
    assert (asked, len(ears.seen)) == (3, 4)
    assert state["run"] == 1


async def test_a_killed_worker_leaves_the_host_one_video(
    studio: Studio, host: MuxServer, ears: SpeechServer, killable: Killable
) -> None:
    """It dies while it sends: the upload is found again, and filled from where it stands."""
    host.faults["PUT storage"] = [Fault(hang=True)]
    training = await studio.start()
    killable.start()
    await asyncio.wait_for(host.reached.wait(), 120)
    killable.kill()

    state = await studio.ended(training, others_died=True)

    assert state["status"] == "completed", state["reason"]
    assert list(host.uploads) == ["upload1"]
    assert host.received["upload1"] == SAMPLE.read_bytes()
    assert len(ears.seen) == 1
