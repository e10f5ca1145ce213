"""The routes of the guide: a session's chat, its work's state, events, messages and cancelling.

A session is named by its id and belongs to a guest or to the calling user; the rules are in SQL.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import StreamingResponse

from minutehand.apps.chat.classifier import Classification, classify
from minutehand.apps.chat.models import Document, Mode, Outcome, Text
from minutehand.apps.chat.offline.artefact import POLICY
from minutehand.apps.chat.services import Chat
from minutehand.apps.chat.session_feed import SessionFeed
from minutehand.apps.chat.store import SessionStore
from minutehand.web.auth import GuestCredentials, bearer_token, stream_caller
from minutehand.web.caller import Caller, token_of
from minutehand.web.errors import (
    ApiError,
    invalid_argument,
    not_found,
    token_missing,
)
from minutehand.web.hub import EventHub
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE, EventStream
from minutehand.web.streams import BUFFERED_SECONDS, Opening, asked_at, buffered_pace

logger = logging.getLogger(__name__)

MOST_CHARACTERS: Final = 8_000
#: How long an answer is waited for; behind a gateway the function has 20 s in all.
WAIT_SECONDS: Final = 60.0
#: Between two polls for an answer.
LOOK_SECONDS: Final = (0.05, 0.5)
STILL_WRITING: Final = "Your answer is still being written; it will be in this session's messages."
_SESSION_ID = Annotated[str | None, Query(alias="sessionId", max_length=255)]
_HEADER_ID = Annotated[str | None, Header(alias="X-Session-Id", max_length=255)]


class Turn(BaseModel):
    """One message of a request."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Field(min_length=1, max_length=50_000, pattern=r"\S")]


class ChatRequest(BaseModel):
    """What is said: the last message of role user; the ones before are read in a new session."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[Turn], Field(min_length=1, max_length=200)]
    workspace_id: Annotated[str, Field(max_length=36)] | None = None
    documents: Annotated[list[Document], Field(max_length=5)] = Field(
        default_factory=list, description="Texts to work on."
    )
    mode: Mode = Field(default="auto", description="`reply` answers directly, `work` never does.")
    ask: bool = Field(default=True, description="Whether work may ask questions.")
    ask_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Then a question's default is taken."
    )
    seed: int = Field(default=0, ge=0, le=2_147_483_647)


class CancelRequest(BaseModel):
    """One piece of work, or all of a session."""

    model_config = ConfigDict(extra="ignore")

    workId: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    sessionId: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    cancelAll: bool = False


class MessageRequest(BaseModel):
    """An answer to the message `messageId`, or guidance for work."""

    model_config = ConfigDict(extra="ignore")

    messageId: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    sessionId: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    workId: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    content: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


async def guest_or_user(
    request: Request,
    credentials: GuestCredentials,
    access_token: Annotated[str | None, Query(description="For EventSource alone.")] = None,
) -> Caller | None:
    """Dependency: the user of a token; None for a guest, where guests are allowed.

    Raises:
        ApiError: 401 for a bad token, and for none where ALLOW_ANONYMOUS is off.
    """
    services: Services = request.app.state.services
    if bearer_token(request) is not None or access_token:
        return await stream_caller(request, credentials, access_token)
    if not services.settings.allow_anonymous:
        raise token_missing()
    return None


#: A signed-in user, or None for a guest where guests are let in.
GuestOrUser = Annotated[Caller | None, Depends(guest_or_user)]


class SessionRoutes:
    """The routes by session."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        streams: dict[int | str, dict[str, Any]] = {
            200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
        }
        begun: dict[int | str, dict[str, Any]] = {202: {"description": "Work has begun."}}
        add = router.add_api_route
        add(
            "/api/chat",
            self.chat,
            methods=["POST"],
            responses={**streams, **begun},
            response_model=None,
        )
        add("/api/chat/artefacts/{token}", self.artefact, methods=["GET"], response_class=Response)
        add("/api/async-status", self.status, methods=["GET"])
        add(
            "/api/async-events",
            self.events,
            methods=["GET"],
            responses=streams,
            response_model=None,
        )
        add("/api/async-cancel", self.cancel, methods=["POST"])
        add("/api/async-messages", self.list_messages, methods=["GET"])
        add("/api/async-messages", self.send_message, methods=["POST"])

    async def chat(
        self,
        request: Request,
        body: ChatRequest,
        caller: GuestOrUser,
        services: Provided,
        x_session_id: _HEADER_ID = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> Response:
        """Say something: 200 with the reply, or 202 with work that has begun.

        With `Accept: text/event-stream` the reply comes piece by piece.
        """
        key = parse_key(idempotency_key)
        return await self._chat(request, body, caller, services, x_session_id, key)

    async def status(
        self,
        caller: GuestOrUser,
        session_id: _SESSION_ID = None,
        x_session_id: _HEADER_ID = None,
    ) -> dict[str, Any]:
        """The state of a session's work; empty for an unknown session."""
        named = _named(session_id, x_session_id)
        return await self._app.in_session(token_of(caller)).status(named)

    async def events(
        self,
        request: Request,
        caller: GuestOrUser,
        services: Provided,
        session_id: _SESSION_ID = None,
        x_session_id: _HEADER_ID = None,
        cursor: Annotated[
            str | None, Query(max_length=4096, description="An event's id, or `now`.")
        ] = None,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> EventStream:
        """A session's events, unnamed, `connected` first; resumed by `Last-Event-ID`."""
        named = _named(session_id, x_session_id)
        return await self._events(request, caller, services, named, last_event_id or cursor)

    async def cancel(
        self,
        body: CancelRequest,
        caller: GuestOrUser,
        x_session_id: _HEADER_ID = None,
    ) -> dict[str, Any]:
        """Cancel a piece of work by its id, or with `cancelAll` all of a session."""
        session_id = body.sessionId or x_session_id
        if body.workId is None and not (session_id and body.cancelAll):
            raise invalid_argument("workId", "or sessionId with cancelAll must be given")
        store = self._app.in_session(token_of(caller))
        return await store.cancel(session_id, body.workId)

    async def list_messages(
        self,
        caller: GuestOrUser,
        session_id: _SESSION_ID = None,
        x_session_id: _HEADER_ID = None,
        work_id: Annotated[str | None, Query(alias="workId", max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 100,
    ) -> dict[str, Any]:
        """Messages between work and people; returned ones count as read."""
        store = self._app.in_session(token_of(caller))
        return await store.notes(_named(session_id, x_session_id), work_id, limit=limit)

    async def send_message(
        self,
        body: MessageRequest,
        caller: GuestOrUser,
        services: Provided,
        x_session_id: _HEADER_ID = None,
    ) -> dict[str, Any]:
        """Answer a question in any words, or guide live work."""
        done = await self._app.in_session(token_of(caller)).respond(
            _named(body.sessionId, x_session_id),
            message_id=body.messageId,
            work_id=body.workId,
            content=body.content,
        )
        if done.pop("wake"):
            await services.waker.wake()
        return done

    async def artefact(self, token: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Response:
        """A page that work has built, for a sandboxed frame without network."""
        found = await self._app.in_session(None).artefact(token)
        page = await self._app.files.find(found["key"])
        if page is None:
            raise not_found("artefact")
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def _chat(
        self,
        request: Request,
        body: ChatRequest,
        caller: Caller | None,
        services: Services,
        session_id: str | None,
        key: str | None,
    ) -> Response:
        began_at = asked_at(request, services.clock)
        text, history = _last_said(body)
        session_id = session_id or f"guest_{secrets.token_hex(32)}"
        texts = [Text(title=each.title, text=each.text) for each in body.documents]
        by_rules = self._classified(text, texts, body.mode)
        begin_now = self._app.by_rules or (body.mode == "work" and not by_rules.items)
        store = self._app.in_session(token_of(caller))
        asked = await store.request(
            session_id,
            {
                "text": text,
                "client_id": key,
                "documents": [each.model_dump() for each in body.documents],
                # what is decided is not decided again
                "mode": "reply"
                if by_rules.tier == "instant" or not self._app.own.async_work
                else body.mode,
                "ask": body.ask,
                "ask_seconds": body.ask_seconds or self._app.own.ask_seconds,
                "seed": body.seed,
                "items": [item.model_dump() for item in by_rules.items] if begin_now else [],
                "history": history,
                "workspace_id": body.workspace_id,
                "address": request.client.host if request.client else None,
            },
        )
        if asked["wake"]:
            await services.waker.wake()
        exchange = _Exchange(
            self._app, store, services, session_id, asked["message_id"], by_rules, began_at
        )
        headers = {"X-Session-Id": session_id}
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return StreamingResponse(
                exchange.stream(),
                media_type=MEDIA_TYPE,
                headers={**headers, "Cache-Control": "no-cache"},
            )
        status, answer = await exchange.answer()
        return JSONResponse(answer, status_code=status, headers=headers)

    def _classified(self, text: str, texts: list[Text], mode: Mode) -> Classification:
        found = classify(text, texts, forced=mode == "work")
        if found.items and not self._app.own.async_work:
            return Classification("standard", reasons=["background work is off: ENABLE_ASYNC_WORK"])
        if found.items and mode == "reply":
            return Classification("standard", reasons=["a direct answer was requested"])
        return found

    async def _events(
        self,
        request: Request,
        caller: Caller | None,
        services: Services,
        session_id: str,
        after: str | None,
    ) -> EventStream:
        began_at = asked_at(request, services.clock)
        feed = SessionFeed(
            session_id,
            self._app.streaming_session(token_of(caller)),
            after=None if after == "now" else after,
            reads=self._hub.reads,
            circle=str(caller.user_id) if caller is not None else "guests",
        )
        async with Opening(request, services, caller, guest=feed.topic) as opening:
            first = await opening.read(feed.open(services.clock.now(), skip=after == "now"))
            pace = buffered_pace(services)
            return opening.stream(feed, first, began_at=began_at, pace=pace, hub=self._hub)

    @property
    def _hub(self) -> EventHub:
        return self._app.hub


_PAGE_HEADERS: Final = {
    # the page's own policy once more, where no page can leave it out
    "Content-Security-Policy": f"{POLICY}; sandbox allow-scripts; frame-ancestors *",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600",
}


class _Exchange:
    """One request on its way to its reply."""

    def __init__(
        self,
        app: Chat,
        store: SessionStore,
        services: Services,
        session_id: str,
        message_id: str,
        by_rules: Classification,
        began_at: float,
    ) -> None:
        self._app = app
        self._store = store
        self._services = services
        self._session_id = session_id
        self._message_id = message_id
        self._by_rules = by_rules
        #: On the monotonic clock; the wait for a reply is counted from here.
        self._began_at = began_at

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """The status and the body, once there is a reply or work has begun."""
        outcomes = [each async for each in self._outcomes()]
        return self._answered(outcomes[-1])

    async def stream(self) -> AsyncIterator[bytes]:
        """The same piece by piece: `text` events, and at the end one `done` with the body."""
        sent = 0
        last: Outcome | None = None
        async for last in self._outcomes():
            text, start = _live_text(last)
            if last.message is not None:
                text, start = str(last.message["text"]), 0
            if text and start <= sent < start + len(text):
                yield _event({"type": "text", "text": text[sent - start :]})
                sent = start + len(text)
        assert last is not None
        status, body = self._answered(last)
        yield _event({"type": "done", "status": status, **body})

    async def _outcomes(self) -> AsyncIterator[Outcome]:
        clock = self._services.clock
        seconds = WAIT_SECONDS if self._services.pace.streaming else BUFFERED_SECONDS
        until = self._began_at + seconds
        pause, longest = LOOK_SECONDS
        while True:
            found = await self._store.outcome(self._session_id, self._message_id)
            yield found
            if found.is_over or clock.monotonic() >= until:
                return
            await asyncio.sleep(pause)
            pause = min(longest, pause * 1.5)

    def _answered(self, outcome: Outcome) -> tuple[int, dict[str, Any]]:
        message = outcome.message
        if message is None and outcome.is_over:
            raise ApiError(
                502,
                "reply_failed",
                outcome.error_message or "The reply was stopped",
                detail={"sessionId": self._session_id, "status": outcome.status},
            )
        begun = message is not None and message["kind"] == "plan"
        tier = (message or {}).get("tier") or self._by_rules.tier
        logger.info(
            "Request classified",
            extra={
                "event": "chat.classified",
                "tier": tier,
                "kinds": [each["type"] for each in outcome.work],
                "reasons": self._by_rules.reasons,
                "by": "rules" if self._app.by_rules else "model",
            },
        )
        reply = str(message["text"]) if message else STILL_WRITING
        return 202 if begun or message is None else 200, {
            "sessionId": self._session_id,
            "messageId": f"msg_{self._message_id}",
            "tier": tier,
            "reasons": self._by_rules.reasons,
            "reply": reply,
            "message": {"role": "assistant", "content": reply},
            "work": [
                {name: each[name] for name in ("id", "type", "status", "estimatedDuration")}
                for each in outcome.work
            ],
        }


def _last_said(body: ChatRequest) -> tuple[str, list[dict[str, str]]]:
    last = next(
        (n for n in range(len(body.messages) - 1, -1, -1) if body.messages[n].role == "user"), None
    )
    if last is None:
        raise invalid_argument("messages", "must hold a message of role user")
    text = body.messages[last].content
    if len(text) > MOST_CHARACTERS:
        raise invalid_argument("messages", f"must end with at most {MOST_CHARACTERS} characters")
    earlier = [each for each in body.messages[:last] if each.role != "system"][-50:]
    return text, [{"author": each.role, "text": each.content} for each in earlier]


def _named(*ids: str | None) -> str:
    found = next((each for each in ids if each), None)
    if found is None:
        raise invalid_argument("sessionId", "must be given", location="query")
    return found


def _live_text(outcome: Outcome) -> tuple[str, int]:
    """What a model has written so far and where that begins, see live.py."""
    stage = (outcome.progress or {}).get("stage") or ""
    place = stage.removeprefix("text:")
    if not stage.startswith("text:") or not place.isdigit():
        return "", 0
    return str((outcome.progress or {}).get("message") or ""), int(place)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + to_json(data) + b"\n\n"
