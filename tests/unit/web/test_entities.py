"""Streams of entities: whose token reads what, where readers share their reads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request

from minutehand.config import Settings
from minutehand.web.caller import Caller
from minutehand.web.entities import EntityStream
from minutehand.web.services import Services
from minutehand.web.sse import Pace
from minutehand.web.streams import Opening


class Asked:
    """An app whose functions note by whose token they are called."""

    def __init__(self, token: str | None, asked: list[str | None]) -> None:
        self.token = token
        self.asked = asked

    def streaming_to(self, token: str | None) -> Asked:
        return Asked(token, self.asked)

    async def call(self, _: str, **__: Any) -> Any:
        self.asked.append(self.token)
        return {"events": [], "more": False, "ended": None, "topic": "plan:1"}


def caller(number: int) -> Caller:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    user_id = UUID(int=number)
    return Caller(user_id, "authenticated", token=f"of-{number}", expires_at=expires_at, claims={})


async def test_only_a_user_shares_reads_with_themselves_and_guests_with_guests(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one may see another may not, from one moment to the next."""
    feeds: list[Any] = []
    monkeypatch.setattr(Opening, "stream", lambda _, feed, *__, **___: feeds.append(feed))
    asked: list[str | None] = []
    router, app, services = (
        APIRouter(),
        Asked(None, asked),
        Services(settings, pace=Pace(streaming=True)),
    )
    EntityStream("plan", app).add_to(router)  # type: ignore[arg-type]
    [route] = router.routes
    assert isinstance(route, APIRoute)
    request = Request({"type": "http", "headers": []}, asyncio.Event().wait)  # type: ignore[arg-type]
    plan = uuid4()
    for one in (caller(1), caller(1), caller(2), None, None):
        await route.endpoint(request, one, services, plan, None, None)
    asked.clear()

    for feed in feeds:
        await feed.read(since=0.0)

    assert asked == ["of-1", "of-2", None]
    await services.aclose()
