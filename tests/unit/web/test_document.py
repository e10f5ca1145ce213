"""The OpenAPI document is made beside the event loop, once, and cached by its readers."""

from __future__ import annotations

import asyncio
import json

import pytest

from minutehand.config import Settings
from minutehand.functions.status import document
from minutehand.functions.status.document import Document
from minutehand.web.application import create_app
from minutehand.web.services import Services
from tests.unit.web.conftest import calling

SETTINGS = Settings(
    supabase_url="http://127.0.0.1:1",
    supabase_publishable_key="sb_publishable_test",
    apps=("minutehand_apps.*",),
)


async def test_other_requests_have_their_turn_while_it_is_made() -> None:
    """It is a second of work: on the event loop everybody would wait for it."""
    turns = 0
    reading = asyncio.create_task(Document().read(SETTINGS))
    while not reading.done():
        turns += 1
        await asyncio.sleep(0.001)  # busier, it would slow down what it waits for

    body, etag = await reading

    assert turns > 20
    assert "/api/jobs" in json.loads(body)["paths"]
    assert etag.startswith('"')


async def test_it_is_made_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for those who ask while it is made, and when the first of them goes away."""
    made = 0

    def encode(settings: Settings) -> tuple[bytes, str]:
        nonlocal made
        made += 1
        return b"{}", '"x"'

    monkeypatch.setattr(document, "_encode", encode)
    one = Document()
    first = asyncio.create_task(one.read(SETTINGS))
    others = [asyncio.create_task(one.read(SETTINGS)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()

    answers = await asyncio.gather(*others)

    assert answers == [(b"{}", '"x"')] * 5
    assert await one.read(SETTINGS) == (b"{}", '"x"')
    assert made == 1


async def test_a_failure_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next caller has it made again."""
    answers: list[Exception | tuple[bytes, str]] = [RuntimeError("once"), (b"{}", '"x"')]

    def encode(settings: Settings) -> tuple[bytes, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(document, "_encode", encode)
    one = Document()
    with pytest.raises(RuntimeError):
        await one.read(SETTINGS)

    assert await one.read(SETTINGS) == (b"{}", '"x"')


async def test_who_has_it_is_not_sent_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is half a megabyte, and asked for by every page of the reference."""
    monkeypatch.setattr(document, "_encode", lambda _: (b"{}", '"x"'))
    app = create_app(Services(SETTINGS), [document.router])
    async with calling(app) as api:
        first = await api.get("/api/openapi.json")
        same = await api.get("/api/openapi.json", headers={"If-None-Match": '"y", "x"'})
        other = await api.get("/api/openapi.json", headers={"If-None-Match": '"y"'})

    assert [each.status_code for each in (first, same, other)] == [200, 304, 200]
    assert (first.content, same.content) == (b"{}", b"")
    assert {each.headers["ETag"] for each in (first, same, other)} == {'"x"'}
    assert {each.headers["Cache-Control"] for each in (first, same)} == {"public, max-age=300"}
