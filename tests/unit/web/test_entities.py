"""Streams of entities: whose token reads what, where readers share their reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from minutehand.config import Settings
from minutehand.web.caller import Caller
from minutehand.web.entities import EntityStream
from minutehand.web.errors import ApiError
from minutehand.web.services import Services
from minutehand.web.sse import Pace
from minutehand.web.streams import Opening


def page(*seqs: int, more: bool = False, ended: str | None = None) -> dict[str, Any]:
    at = "2026-11-20T08:00:00Z"
    events = [{"seq": seq, "type": "step", "data": {}, "at": at} for seq in seqs]
    return {"events": events, "more": more, "ended": ended, "topic": "plan:1"}


class Asked:
    """An app whose functions note by whose token and for what they are called."""

    def __init__(
        self, *pages: dict[str, Any], token: str | None = None, asked: list[Any] | None = None
    ) -> None:
        self.pages = pages
        self.token = token
        self.asked: list[Any] = [] if asked is None else asked

    def streaming_to(self, token: str | None) -> Asked:
        return Asked(*self.pages, token=token, asked=self.asked)

    acting_as = streaming_to

    async def call(self, name: str, **wanted: Any) -> Any:
        self.asked.append((self.token, name, wanted))
        return self.pages[len(self.asked) - 1] if self.pages else page()


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    made = Services(settings.model_copy(update={"caller_streams": 1}), pace=Pace(streaming=True))
    yield made
    await made.aclose()


def route_of(app: Asked) -> APIRoute:
    router = APIRouter()
    EntityStream("plan", app).add_to(router)  # type: ignore[arg-type]
    [route] = router.routes
    assert isinstance(route, APIRoute)
    return route


def request(accept: str = "") -> Request:
    headers = [(b"accept", accept.encode())]
    return Request({"type": "http", "headers": headers}, asyncio.Event().wait)  # type: ignore[arg-type]


def streamed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is streamed from now on: each feed, what was read first, and how."""
    found: list[Any] = []
    monkeypatch.setattr(
        Opening, "stream", lambda _, feed, first, **how: found.append((feed, first, how))
    )
    return found


def caller(number: int) -> Caller:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    user_id = UUID(int=number)
    return Caller(user_id, "authenticated", token=f"of-{number}", expires_at=expires_at)


async def test_only_a_user_shares_reads_with_themselves_and_guests_with_guests(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one may see another may not, from one moment to the next."""
    found, app, plan = streamed(monkeypatch), Asked(), uuid4()
    for one in (caller(1), caller(1), caller(2), None, None):
        await route_of(app).endpoint(request(), one, services, plan, None, None)
    app.asked.clear()

    for feed, _, _ in found:
        await feed.read(since=0.0)

    assert [token for token, _, _ in app.asked] == ["of-1", "of-2", None]


async def test_a_stream_continues_after_its_last_event_until_all_were_sent(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has ended may have more pages, and one deleted since is still read to its end."""
    found, plan = streamed(monkeypatch), uuid4()
    app = Asked(
        page(4, 5, more=True, ended="done"),
        page(6, ended="done"),
        page(),
        page(ended="done"),
        page(7),
    )
    await route_of(app).endpoint(request(), caller(1), services, plan, 9, "3")
    [(feed, first, how)] = found

    batches = [first, await feed.read(), *[await feed.check() for _ in range(3)]]

    assert [[line.cursor for line in batch.lines] for batch in batches[:2]] == [["4", "5"], ["6"]]
    assert [(batch.more, batch.end) for batch in batches] == [
        (True, None),
        (False, "done"),
        (False, None),
        (True, None),
        (True, None),
    ]
    assert b"event:" not in first.lines[0].encoded
    assert how["is_bare"]
    asked = [(wanted["after"], wanted["limit"], wanted["is_open"]) for _, _, wanted in app.asked]
    assert asked == [(3, 500, False), (5, 500, True), *[(6, 1, True)] * 3]
    assert {wanted["plan_id"] for _, _, wanted in app.asked} == {plan}


async def test_guests_of_one_plan_take_no_place_from_those_of_another(services: Services) -> None:
    """Nobody knows them apart but by the plan that they watch."""
    get, plan = route_of(Asked()).endpoint, uuid4()
    for each in (plan, uuid4()):
        await get(request(), None, services, each, None, None)

    with pytest.raises(ApiError) as refused:
        await get(request(), None, services, plan, None, None)

    assert refused.value.info["limit"] == "streams"


@pytest.mark.parametrize(
    ("accept", "found", "answer"),
    [
        ("application/json", page(1, ended="done"), [1]),
        ("application/json", page(ended="done"), []),
        ("text/event-stream", page(1, ended="done"), "stream"),
        ("text/event-stream", page(ended="done"), 204),
        ("text/event-stream, application/json", page(), "stream"),
    ],
)
async def test_events_come_as_json_or_as_a_stream_until_all_were_read(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    accept: str,
    found: dict[str, Any],
    answer: Any,
) -> None:
    """204 stops EventSource, which would otherwise come back to an entity that has ended."""
    streams = streamed(monkeypatch)

    answered = await route_of(Asked(found)).endpoint(
        request(accept), None, services, uuid4(), None, None
    )

    if streams:
        assert answer == "stream"
    elif isinstance(answered, Response):
        assert answered.status_code == answer
    else:
        assert [event.seq for event in answered.events] == answer
