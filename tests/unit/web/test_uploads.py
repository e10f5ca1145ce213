"""What an upload's routes refuse, whatever its id says; S3 and the database are stand-ins.

The whole of it on a stack is tests/integration/api/test_uploads.py.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter

from minutehand.aws.uploads import (
    MIN_PART_BYTES,
    Part,
    UploadIncomplete,
    UploadNotFound,
    Uploads,
)
from minutehand.config import Settings
from minutehand.queue.client import QueueClient
from minutehand.queue.data_api import DataApi
from minutehand.web import paging
from minutehand.web.application import create_app
from minutehand.web.caller import Caller
from minutehand.web.services import Services
from minutehand.web.uploads import Place, UploadRoutes
from tests.unit.web.conftest import ADA, calling

WORKSPACE = UUID(int=7)
SUM = hashlib.sha256(b"x").hexdigest()
MOST = 2 * MIN_PART_BYTES


class Bucket:
    """S3 with one upload; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.arrived = True
        #: Of the complete file; None while parts are to come.
        self.size: int | None = None
        self.matches = True

    async def create(self, key: str, *, content_type: str) -> str:
        self.asked.append(("create", content_type, key.split("/")[1:3], key.split("/")[4]))
        return "s3-id"

    async def sign(self, key: str, upload_id: str, cut: Any, sums: dict[int, str]) -> Any:
        return {number: f"https://s3.test/{number}" for number in sums}

    async def complete(self, key: str, upload_id: str, cut: Any) -> None:
        if not self.arrived:
            raise UploadIncomplete((2,))

    async def check(self, key: str, cut: Any, checksum: str) -> bool:
        self.asked.append(("check", checksum))
        return self.matches

    async def parts(self, key: str, upload_id: str) -> list[Part]:
        if self.size is not None:
            raise UploadNotFound(upload_id)
        return [Part(1, MIN_PART_BYTES, ""), Part(2, 1, "")]

    async def size_of(self, key: str) -> int | None:
        return self.size

    async def remove(self, key: str) -> None:
        self.asked.append("remove")

    async def abort(self, key: str, upload_id: str) -> None:
        self.asked.append("abort")


class Videos(UploadRoutes):
    """Takes videos of two parts."""

    media_types = ("video/*",)
    most_bytes = MOST

    def __init__(self) -> None:
        self.completed: list[tuple[str, str, UUID, UUID | None]] = []

    async def on_complete(
        self, place: Place, checksum: str, caller: Caller, services: Services
    ) -> dict[str, Any]:
        self.completed.append((place.title, checksum, place.workspace_id, place.wanted_id))
        return {}


class World:
    """The routes, and whose tenant Ada is."""

    def __init__(self, settings: Settings) -> None:
        self.bucket, self.videos, self.is_member = Bucket(), Videos(), True
        self.services = Services(settings)
        api = DataApi("http://127.0.0.1:9", transport=httpx.MockTransport(self._answer))
        self.services.queue = QueueClient(settings, api=api)
        self.services._provided[Uploads] = self.bucket
        router = APIRouter(prefix="/uploads")
        self.videos.add_to(router)
        self.app = create_app(self.services, [router])

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(200, json={"workspace_id": str(WORKSPACE)})
        return httpx.Response(200, json=[{"id": str(WORKSPACE)}] if self.is_member else [])


@pytest.fixture
def world(settings: Settings) -> World:
    return World(settings)


@pytest.fixture
async def ada(world: World, secret_token: Callable[..., str]) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(world.app) as api:
        api.headers["Authorization"] = f"Bearer {secret_token()}"
        yield api


def id_of(
    *,
    owner: object = ADA,
    size: int = MIN_PART_BYTES + 1,
    s3_id: str = "s3-id",
    title: str = "T",
    wanted: str = "",
) -> str:
    """What an upload's id is, or what someone made of it."""
    key = f"workspaces/{WORKSPACE}/{owner}/{UUID(int=9)}/a.mp4"
    return paging.encode(key, s3_id, size, title, wanted)


def new(**changes: Any) -> dict[str, Any]:
    return {"filename": "my-clip.mp4", "content_type": "video/mp4", "size": MOST, **changes}


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({}, 201, None),
        ({"content_type": "text/csv"}, 415, "upload_type_refused"),
        ({"size": MOST + 1}, 413, "upload_too_large"),
        ({"size": 0}, 422, "empty_file"),
        ({"size": -1}, 422, "validation_failed"),
        ({"colour": "red"}, 422, "validation_failed"),
    ],
)
async def test_a_file_is_refused_before_it_is_sent(
    world: World, ada: httpx.AsyncClient, changes: Any, status: int, code: str | None
) -> None:
    answer = await ada.post("/uploads", json=new(**changes))

    body = answer.json()
    assert (answer.status_code, body.get("code")) == (status, code)
    where = [str(WORKSPACE), ADA]
    assert world.bucket.asked == (
        [("create", "video/mp4", where, "my-clip.mp4")] if status == 201 else []
    )
    if status == 201:
        assert (body["title"], body["part_count"], body["missing"]) == ("My clip", 2, [1, 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": UUID(int=1)},
        {"size": 0},
        {"size": -5},
        {"size": 10**15},
        {"s3_id": ""},
        {"s3_id": "a b"},
        {"title": " "},
        None,
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/parts"), ("POST", "/complete"), ("DELETE", "")]
)
async def test_an_id_that_is_no_upload_of_the_callers_is_not_found(
    world: World, ada: httpx.AsyncClient, changes: Any, method: str, path: str
) -> None:
    """Its holder may have written any of it; of a removed member none counts any more."""
    world.is_member = changes is not None
    parts = [{"part_number": 1, "checksum": SUM}]
    bodies: dict[str, Any] = {"/parts": {"parts": parts}, "/complete": {"checksum": SUM}}
    address = f"/uploads/{id_of(**(changes or {}))}{path}"

    answer = await ada.request(method, address, json=bodies.get(path))

    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")
    assert world.bucket.asked == []


async def test_a_complete_file_becomes_something_when_it_is_the_one_that_was_sent(
    world: World, ada: httpx.AsyncClient
) -> None:
    """One that is another is removed, and one that has not arrived says what is missing."""
    address = f"/uploads/{id_of(wanted=str(UUID(int=5)))}/complete"
    world.bucket.arrived = False
    early = await ada.post(address, json={"checksum": SUM})
    world.bucket.arrived, world.bucket.matches = True, False
    other = await ada.post(address, json={"checksum": SUM})
    assert world.bucket.asked == [("check", SUM), "remove"]
    world.bucket.matches = True
    done = await ada.post(address, json={"checksum": SUM.upper()})
    of_parts = base64.b64encode(bytes.fromhex(SUM)).decode() + "-2"
    await ada.post(address, json={"checksum": of_parts})

    assert (early.status_code, early.json()["detail"]) == (409, {"missing": [2]})
    assert (other.status_code, other.json()["code"]) == (422, "checksum_mismatch")
    assert (done.status_code, done.json()["complete"]) == (200, True)
    assert address == f"/uploads/{done.json()['id']}/complete"
    assert world.videos.completed == [
        ("T", each, WORKSPACE, UUID(int=5)) for each in (SUM, f"{SUM}-2")
    ]


async def test_a_deployment_without_a_bucket_says_so(world: World, ada: httpx.AsyncClient) -> None:
    del world.services._provided[Uploads]

    answer = await ada.post("/uploads", json=new())

    assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")
