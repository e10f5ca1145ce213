"""A worker killed in the middle: another goes on behind what was stored, and repeats nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.local.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from shared.apps.training.media import find_ffmpeg
from shared.config import Settings
from shared.worker.testing import drain
from tests.integration.training.conftest import BUCKET, SAMPLE, Studio
from tests.support.project import Project
from tests.unit.ai import speech_server
from tests.unit.ai.speech_server import SpeechServer
from tests.unit.training import mux_server
from tests.unit.training.mux_server import TOKEN_ID, TOKEN_SECRET, MuxServer

ROOT = Path(__file__).resolve().parents[3]


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
    online = settings.model_copy(
        update={
            "speech_url": ears.url,
            "speech_key": speech_server.KEY,
            "speech_model": "whisper-1",
            "mux_token_id": TOKEN_ID,
            "mux_token_secret": TOKEN_SECRET,
            "mux_base_url": host.url,
        }
    )
    async with Studio(project, online).open() as studio:
        yield studio


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end, if not before."""
    environment = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "SPEECH_URL": settings.speech_url or "",
        "SPEECH_KEY": settings.speech_key or "",
        "SPEECH_MODEL": "whisper-1",
        "MUX_TOKEN_ID": TOKEN_ID,
        "MUX_TOKEN_SECRET": TOKEN_SECRET,
        "MUX_BASE_URL": settings.mux_base_url,
        "UPLOADS_BUCKET": BUCKET,
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url or "",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "STAGE": "local",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.training.worker_process"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something another process brings about."""
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        await asyncio.sleep(0.05)


async def finished(studio: Studio, training: dict[str, Any]) -> dict[str, Any]:
    """Have another worker finish; the dead one's leases are over."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        studio.project.run_sql(
            "update queue.leases set expires_at = queue.clock() - interval '1 second'"
        )
        await drain(studio.worker)
        state = await studio.look(training)
        if state["status"] not in {"pending", "running"}:
            return state
        studio.make_due()
        await asyncio.sleep(0.05)  # lapsed leases are looked for now and then
    raise AssertionError(f"the training does not end: {state}")


async def test_a_killed_worker_costs_the_stretch_under_way(
    studio: Studio, ears: SpeechServer, tmp_path: Path
) -> None:
    """Two of three stretches are stored as it dies; only the third is heard again."""
    long = tmp_path / "long.mp4"
    ffmpeg = await asyncio.to_thread(find_ffmpeg, studio.settings)
    command = [ffmpeg, "-v", "error", "-stream_loop", "3", "-i", str(SAMPLE), "-c", "copy"]
    await asyncio.to_thread(subprocess.run, [*command, str(long)], check=True)
    ears.faults = [speech_server.Fault(hang=True)]
    training = await studio.start(long.read_bytes())
    with worker(studio.settings) as process:
        await until(
            lambda: (
                studio.project.rows("select 1 from public.training_chunks offset 1")
                and ears.reached.is_set()
            )
        )
        process.kill()
        process.wait(10)
    asked = len(ears.seen)

    state = await finished(studio, training)

    assert state["status"] == "completed", state["reason"]
    assert (asked, len(ears.seen)) == (3, 4)
    assert state["run"] == 1


async def test_a_killed_worker_leaves_the_host_one_video(
    studio: Studio, host: MuxServer, ears: SpeechServer
) -> None:
    """It dies while it sends: the upload is found again, and filled from where it stands."""
    host.faults["PUT storage"] = [mux_server.Fault(hang=True)]
    training = await studio.start()
    with worker(studio.settings) as process:
        await asyncio.wait_for(host.reached.wait(), 120)
        process.kill()
        process.wait(10)

    state = await finished(studio, training)

    assert state["status"] == "completed", state["reason"]
    assert list(host.uploads) == ["upload1"]
    assert host.received["upload1"] == SAMPLE.read_bytes()
    assert len(ears.seen) == 1
