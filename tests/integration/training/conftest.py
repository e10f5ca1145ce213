"""Fixtures of the training app: its API, a local S3, and a worker that runs when a test runs it."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.ai.speech import OnShare, Segment, Transcript
from minutehand.config import Settings
from minutehand_apps.training.processors import register
from minutehand_apps.training.services import Training
from tests.integration.training.mux_server import MuxServer
from tests.support.engine import ACME, ADA, Json
from tests.support.fake_aws import fake_aws
from tests.support.harness import AppHarness
from tests.support.project import Project
from tests.support.renewed import Renewed

BUCKET = "minutehand-training-uploads"
SAMPLE = Path(__file__).resolve().parents[3] / "shared/minutehand_apps/training/console/sample.mp4"


class QuickEar:
    """A speech recognizer that returns the words that the test sets."""

    def __init__(self) -> None:
        self.said = [
            Segment(0.1, 2.0, "first turn off the power"),
            Segment(2.5, 5.0, "next open the front door"),
        ]
        self.transcribed: list[int] = []
        self.before: list[Exception] = []

    async def transcribe(self, sound: bytes, *, on_share: OnShare | None = None) -> Transcript:
        if self.before:
            raise self.before.pop(0)
        self.transcribed.append(len(sound))
        return Transcript(tuple(self.said), "quick", offline=True)

    async def aclose(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A local S3 server of this file's tests. moto stores its data in the process."""
    with fake_aws() as endpoint:
        assert httpx.put(f"{endpoint}/{BUCKET}", trust_env=False).is_success
        yield endpoint


@pytest.fixture
def settings(s3_server: str) -> Settings:
    """Settings with an uploads bucket and without other services."""
    return scratch_settings(uploads_bucket=BUCKET, aws_endpoint_url=s3_server)


@pytest.fixture
def project(renewed: Renewed, settings: Settings) -> Project:
    """A database with seed data and a Data API, and the uploads bucket."""
    here = settings.model_copy(update={"supabase_url": renewed.gateway.url})
    return Project(here, renewed)


class Studio(AppHarness):
    """The training app, with functions to start and read trainings."""

    def __init__(self, project: Project, settings: Settings, **given: Any) -> None:
        self.app = Training(settings)
        vars(self.app).update(given)
        super().__init__(project, settings, register, self.app, concurrency=4)

    def objects(self, below: str = "") -> set[str]:
        """Return the keys of the files in Acme's part of the bucket."""
        s3 = self.app.bucket._s3
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"workspaces/{ACME}/{below}")
        return {each["Key"] for each in listed.get("Contents", ())}

    async def start(self, content: bytes | None = None, *, user: str = ADA) -> Json:
        """Put a recording into the bucket as if the user had uploaded it.

        Start its transcription.
        """
        key = f"workspaces/{ACME}/{user}/{uuid.uuid4()}/clip.mp4"
        video = SAMPLE.read_bytes() if content is None else content
        await self.app.bucket.call("put_object", Key=key, Body=video)
        body = {"user_id": user, "company_id": ACME, "audio_url": key}
        path = f"/api/trainings/{uuid.uuid4()}/transcription"
        made = await self.ok("POST", path, json=body, user=user)
        return await self.look(made["training_id"])

    async def look(self, training_id: str) -> Json:
        """Read the training as the workspace's members see it."""
        return await self.ok("GET", f"/api/trainings/{training_id}")

    async def ended(self, training: Json) -> Json:
        """Run the worker until the training has ended."""
        return await self.tick_until(
            lambda: self.look(training["id"]),
            lambda state: state["status"] not in {"pending", "running"},
        )


@pytest.fixture
def ear() -> QuickEar:
    """The speech recognizer of the training app."""
    return QuickEar()


@pytest.fixture
async def host() -> AsyncIterator[MuxServer]:
    """The running server of the video host."""
    async with MuxServer() as running:
        yield running


@pytest.fixture
async def studio(project: Project, ear: QuickEar) -> AsyncIterator[Studio]:
    """The running training app with the test's recognizer, without a model and a video host."""
    async with Studio(project, project.settings, speech=ear).open() as studio:
        yield studio
