"""The address of a guest on its way to the database, signed with a key that workers read."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from minutehand.clock import FrozenClock, SystemClock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.functions import CallerFunctions
from minutehand.queue.guests import (
    HEADER,
    KEPT_SECONDS,
    RETRY_SECONDS,
    AddressSigner,
    calling_from,
)

KEY = "ab" * 32


class Project:
    """A Data API that gives out the key and keeps what it was sent."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests: list[httpx.Request] = []
        self.api = DataApi(
            "http://127.0.0.1:1", attempts=1, transport=httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        asked = request.url.path.endswith("/guest_key")
        return httpx.Response(self.status if asked else 200, json={"key": KEY} if asked else {})

    async def call(self, *, token: str | None = None, **settings: Any) -> str:
        """What a call of a guest says of its address; empty for nothing."""
        known = Settings(
            supabase_url="http://127.0.0.1:1",
            supabase_publishable_key="sb_publishable_x",
            **{"supabase_worker_key": "key", **settings},
        )
        signer = AddressSigner(known, self.api, SystemClock())
        functions = CallerFunctions(self.api, known, token=token, signed=signer.headers)
        with calling_from("203.0.113.7"):
            await functions.call("chat_request")
        return str(self.requests[-1].headers.get(HEADER, ""))


async def test_a_guests_address_is_signed_with_the_time() -> None:
    """As `queue.client_address` reads it."""
    said = await Project().call()

    address, at, signature = said.split(" ")
    key = bytes.fromhex(KEY)
    inner = hashlib.sha256(key + f"{address} {at}".encode()).digest()
    assert address == "203.0.113.7"
    assert abs(int(at) - SystemClock().now().timestamp()) < 60
    assert signature == hashlib.sha256(key + inner).hexdigest()


async def test_outside_a_request_there_is_no_address() -> None:
    """Nor is a key asked for; the address of one request is not the next one's."""
    project, clock = Project(), FrozenClock()
    known = Settings(
        supabase_url="http://127.0.0.1:1",
        supabase_publishable_key="sb_publishable_x",
        supabase_worker_key="key",
    )
    signer = AddressSigner(known, project.api, clock)

    assert await signer.headers() == {}
    assert project.requests == []
    with calling_from("203.0.113.7"):
        with calling_from(None):
            assert await signer.headers() == {}
        [said] = (await signer.headers()).values()
    assert said.split(" ")[:2] == ["203.0.113.7", str(int(clock.now().timestamp()))]
    assert await signer.headers() == {}


async def test_a_persons_call_says_nothing_of_it() -> None:
    """Their token says who they are."""
    project = Project()

    assert await project.call(token="token") == ""
    assert len(project.requests) == 1


@pytest.mark.parametrize(
    ("settings", "said"), [({"supabase_worker_key": None}, []), ({}, ["guests.key_failed"])]
)
async def test_without_the_key_the_call_is_made_all_the_same(
    settings: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A deployment without a worker's key, or whose key was revoked."""
    assert await Project(status=500).call(**settings) == ""
    events = [record.__dict__.get("event", "") for record in caplog.records]
    assert [event for event in events if event.startswith("guests.")] == said


async def test_a_key_is_kept_and_a_refusal_for_ten_seconds() -> None:
    """Every call of a guest would cost another one."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1",
        supabase_publishable_key="sb_publishable_x",
        supabase_worker_key="key",
    )
    for status, kept in ((200, KEPT_SECONDS), (500, RETRY_SECONDS)):
        project, clock = Project(status), FrozenClock()
        signer = AddressSigner(settings, project.api, clock)
        asked = []
        with calling_from("203.0.113.7"):
            for seconds in (0, 0, kept - 1, 1):
                clock.advance(seconds=seconds)
                await signer.headers()
                asked.append(len(project.requests))

        assert asked == [1, 1, 1, 2]
