"""The training app in one hand: its API per user, S3 on this machine, and ticks on demand.

Ears, models and the video host are the real clients of local servers, or the offline ones.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.ai.speech import OnHeard, Segment, Transcript
from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand_apps.training.processors import register
from minutehand_apps.training.services import Training
from tests.support.fake_aws import fake_aws
from tests.support.harness import AppHarness
from tests.support.project import ACME, ADA, Project
from tests.support.renewed import Renewed
from tests.unit.training.mux_server import MuxServer

GLOBEX = "22222222-2222-4222-8222-222222222222"
BOB = "aaaaaaaa-0000-4000-8000-000000000002"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
BUCKET = "minutehand-training-uploads"
SAMPLE = Path(__file__).resolve().parents[3] / "shared/minutehand_apps/training/console/sample.mp4"


class QuickEar:
    """Says what it was told to say, so that not every test listens for seconds.

    The offline engine itself is heard in test_training.py and tests/unit/ai/test_speech.py.
    """

    name = "quick"
    offline = True

    def __init__(self) -> None:
        self.said = [
            Segment(0.1, 2.0, "first turn off the power"),
            Segment(2.5, 5.0, "next open the front door"),
            Segment(5.5, 7.0, "be careful it may be hot"),
        ]
        self.heard: list[int] = []
        self.before: list[Exception] = []
        self.reached = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def transcribe(self, sound: bytes, *, on_heard: OnHeard | None = None) -> Transcript:
        self.reached.set()
        while self.hold is not None and not self.hold.is_set():
            if on_heard is not None:
                on_heard(0.5)  # with each report a worker learns what is cancelled
            await asyncio.sleep(0.05)
        if self.before:
            raise self.before.pop(0)
        self.heard.append(len(sound))
        if on_heard is not None:
            on_heard(1.0)
        return Transcript(tuple(self.said), self.name, offline=True)

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """S3, on this machine: what moto holds is the process's, and other files may empty it."""
    with fake_aws() as endpoint:
        made = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        made.create_bucket(Bucket=BUCKET)
        yield endpoint


@pytest.fixture
def settings(renewed: Renewed, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The project's settings, with a bucket and nothing else from outside."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return scratch_settings(renewed.gateway.url).model_copy(
        update={"uploads_bucket": BUCKET, "aws_endpoint_url": s3_server}
    )


@pytest.fixture
def project(settings: Settings, renewed: Renewed) -> Project:
    """Eyes on the tables, and plain SQL."""
    return Project(settings, renewed.database, renewed.gateway)


class Studio(AppHarness):
    """The whole app, where videos are handed in."""

    def __init__(self, project: Project, settings: Settings, **given: Any) -> None:
        self.app = Training(settings, **given)
        registry = Registry()
        register(registry, settings, app=self.app)
        super().__init__(project, settings, registry, self.app, concurrency=4)

    async def read(self, path: str, *, user: str = ADA) -> Any:
        """Rows through the Data API."""
        return (await self.rest("GET", path, user=user)).json()

    def objects(self, below: str = "") -> set[str]:
        """What lies in the bucket below Acme's prefix."""
        s3 = self.app.files._s3
        listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"workspaces/{ACME}/{below}")
        return {each["Key"] for each in listed.get("Contents", ())}

    async def put(self, content: bytes, *, name: str = "clip.mp4", user: str = ADA) -> str:
        """Have a file in the bucket as if that user had uploaded it."""
        key = f"workspaces/{ACME}/{user}/{uuid.uuid4()}/{name}"
        await self.app.files.put(key, content)
        return key

    async def start(self, content: bytes | None = None, **fields: Any) -> dict[str, Any]:
        """Start a training, of the sample unless given another file."""
        key = await self.put(SAMPLE.read_bytes() if content is None else content)
        body = {"workspace_id": ACME, "title": "Paper", "object_key": key, **fields}
        answer = await self.call("POST", "/api/trainings", json=body)
        assert answer.status_code == 201, answer.text
        training: dict[str, Any] = answer.json()
        return training

    async def look(self, training: dict[str, Any]) -> dict[str, Any]:
        """The training as its members see it."""
        answer = await self.call("GET", f"/api/trainings/{training['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def until(
        self,
        training: dict[str, Any],
        reached: Callable[[dict[str, Any]], Any],
        *,
        others_died: bool = False,
    ) -> dict[str, Any]:
        """Tick until the training is as wanted, though other workers died or not."""
        return await self.tick_until(lambda: self.look(training), reached, others_died=others_died)

    def job(self, training: dict[str, Any], job_type: str = "transcription") -> dict[str, Any]:
        """One of a training's jobs, as it is now."""
        [row] = self.project.rows(
            "select j.* from public.training_jobs as t join public.jobs as j on j.id = t.job_id"
            " where t.training_id = %s and t.job_type = %s",
            training["id"],
            job_type,
        )
        return row

    async def ended(self, training: dict[str, Any], *, others_died: bool = False) -> dict[str, Any]:
        """Tick until it has ended."""
        return await self.until(
            training,
            lambda state: state["status"] not in {"pending", "running"},
            others_died=others_died,
        )


@pytest.fixture
def ear() -> QuickEar:
    """The ear of the studio."""
    return QuickEar()


@pytest.fixture
async def host() -> AsyncIterator[MuxServer]:
    """The video host."""
    async with MuxServer() as running:
        yield running


@pytest.fixture
async def studio(project: Project, settings: Settings, ear: QuickEar) -> AsyncIterator[Studio]:
    """The app with a quick ear, no language model and no video host."""
    async with Studio(project, settings, speech=ear).open() as studio:
        yield studio
