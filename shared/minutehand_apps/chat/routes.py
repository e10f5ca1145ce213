"""The app's routes: a session's chat, its work's state, events, messages and cancelling.

A session is named by its id and belongs to a guest or to the calling user; the rules are in SQL.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from minutehand.queue.functions import CallerFunctions
from minutehand.web import paging
from minutehand.web.auth import SignedIn, UserOrGuest
from minutehand.web.caller import token_of
from minutehand.web.errors import ApiError, invalid_argument
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE, EventStream, frame
from minutehand.web.streams import BUFFERED_SECONDS, Opening, asked_at, buffered_pace
from minutehand_apps.chat.classifier import Classification, classify
from minutehand_apps.chat.models import Document, Mode, Outcome, SessionPage, Text
from minutehand_apps.chat.services import Chat
from minutehand_apps.chat.session_feed import SessionFeed

logger = logging.getLogger(__name__)

MOST_CHARACTERS: Final = 8_000
#: How long an answer is waited for; behind a gateway the function has 20 s in all.
WAIT_SECONDS: Final = 60.0
#: Between two polls for an answer.
LOOK_SECONDS: Final = (0.05, 0.5)
STILL_WRITING: Final = (
    "Your answer is still being written. It comes as a message, as the event reply_completed and"
    " at the address in Location."
)
_SESSION_ID = Annotated[str | None, Query(alias="sessionId", max_length=255)]
_HEADER_ID = Annotated[str | None, Header(alias="X-Session-Id", max_length=255)]
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


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
    wait_seconds: float = Field(
        default=WAIT_SECONDS,
        ge=0,
        le=WAIT_SECONDS,
        description="How long the reply is waited for; behind a gateway 12 at most.",
    )


class CancelRequest(BaseModel):
    """One piece of work, the reply to a message by the message's id, or all work of a session."""

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


routes = APIRouter(tags=["chat"])


async def _provided(services: Provided) -> Chat:
    return services.provide(Chat, lambda: Chat(services.settings))


async def _acting(caller: UserOrGuest, services: Provided) -> CallerFunctions:
    return (await _provided(services)).acting_as(token_of(caller))


async def _named(session_id: _SESSION_ID = None, x_session_id: _HEADER_ID = None) -> str:
    named = session_id or x_session_id
    if not named:
        raise invalid_argument("sessionId", "must be given", location="query")
    return named


App = Annotated[Chat, Depends(_provided)]
#: The app's SQL functions as the caller may call them.
Functions = Annotated[CallerFunctions, Depends(_acting)]
#: The session that a request names in its query or header.
Session = Annotated[str, Depends(_named)]


@routes.post(
    "/api/chat",
    responses={**_STREAM, 202: {"description": "Work has begun."}},
    response_model=None,
)
async def chat(
    request: Request,
    body: ChatRequest,
    app: App,
    functions: Functions,
    services: Provided,
    x_session_id: _HEADER_ID = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Say something: 200 with the reply, or 202 with work that has begun.

    With `Accept: text/event-stream` the reply comes piece by piece.
    """
    key = parse_key(idempotency_key)
    began_at = asked_at(request, services.clock)
    text, history = _last_said(body)
    session_id = x_session_id or f"guest_{secrets.token_hex(32)}"
    texts = [Text(title=each.title, text=each.text) for each in body.documents]
    by_rules = _classified(app, text, texts, body.mode)
    begin_now = app.by_rules or (body.mode == "work" and not by_rules.items)
    asked = await functions.call(
        "chat_request",
        session_id=session_id,
        repeatable=key is not None,
        request={
            "text": text,
            "client_id": key,
            "documents": [each.model_dump() for each in body.documents],
            # what is decided is not decided again
            "mode": "reply" if by_rules.tier == "instant" or not app.own.async_work else body.mode,
            "ask": body.ask,
            "ask_seconds": body.ask_seconds or app.own.ask_seconds,
            "seed": body.seed,
            "items": [item.model_dump() for item in by_rules.items] if begin_now else [],
            "history": history,
            "workspace_id": body.workspace_id,
        },
    )
    if asked["wake"]:
        await services.waker.wake()
    exchange = _Exchange(
        app,
        functions,
        services,
        session_id,
        asked["message_id"],
        began_at,
        by_rules,
        body.wait_seconds,
    )
    if MEDIA_TYPE in request.headers.get("accept", ""):
        return StreamingResponse(
            exchange.stream(),
            media_type=MEDIA_TYPE,
            headers={"X-Session-Id": session_id, "Cache-Control": "no-cache"},
        )
    return await exchange.response()


@routes.get("/api/chat")
async def said(
    functions: Functions,
    named: Session,
    before: Annotated[
        int | None, Query(ge=1, le=2_147_483_647, description="Messages before this `seq`.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """A session's conversation: its latest messages in order, each result with its page."""
    return await functions.call("chat_said", session_id=named, before=before, limit=limit)


@routes.delete("/api/chat", status_code=204)
async def delete(functions: Functions, named: Session) -> None:
    """Delete a session's conversation and cancel its live work; for its author and managers."""
    await functions.call("chat_delete", session_id=named, repeatable=False)


@routes.get("/api/chat/sessions")
async def list_sessions(
    caller: SignedIn,
    app: App,
    workspace_id: UUID | None = None,
    after: Annotated[
        str | None, Query(max_length=200, description="The `next` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> SessionPage:
    """Sessions of a workspace, the one written in last first."""
    at = paging.decode(after, datetime, UUID) if after is not None else None
    found = await app.acting_as(caller.token).call(
        "chat_sessions",
        workspace_id=workspace_id,
        before={"at": at[0], "id": at[1]} if at is not None else None,
        limit=limit,
    )
    rows = found["sessions"]
    last = rows[-1] if len(rows) == limit else None
    following = paging.encode(last["last_message_at"], last["conversation_id"]) if last else None
    return SessionPage.model_validate({"sessions": rows, "next": following})


@routes.get(
    "/api/chat/replies/{message_id}",
    responses={202: {"description": "It is still being written."}},
    response_model=None,
)
async def reply(
    request: Request,
    message_id: Annotated[str, Path(pattern="^msg_[0-9a-f-]{36}$")],
    app: App,
    functions: Functions,
    services: Provided,
    named: Session,
) -> Response:
    """What became of a message, as `POST /api/chat` answers it; waits as long for it."""
    sent, began_at = message_id.removeprefix("msg_"), asked_at(request, services.clock)
    return await _Exchange(app, functions, services, named, sent, began_at).response()


@routes.get("/api/async-status")
async def status(functions: Functions, named: Session) -> dict[str, Any]:
    """The state of a session's work; empty for an unknown session."""
    return await functions.call("chat_status", session_id=named)


@routes.get("/api/async-events", responses=_STREAM, response_model=None)
async def events(
    request: Request,
    caller: UserOrGuest,
    app: App,
    services: Provided,
    named: Session,
    cursor: Annotated[
        str | None, Query(max_length=4096, description="An event's id, or `now`.")
    ] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> EventStream:
    """A session's events, unnamed, `connected` first; resumed by `Last-Event-ID`."""
    began_at, after = asked_at(request, services.clock), last_event_id or cursor
    feed = SessionFeed(
        named,
        app.streaming_to(token_of(caller)),
        after=None if after == "now" else after,
        reads=services.hub.reads,
        circle=str(caller.user_id) if caller is not None else "guests",
    )
    async with Opening(request, services, caller, guest=feed.topic) as opening:
        first = await opening.read(feed.open(services.clock.now(), skip=after == "now"))
        pace = buffered_pace(services)
        return opening.stream(feed, first, began_at=began_at, pace=pace)


@routes.post("/api/async-cancel")
async def cancel(
    body: CancelRequest, functions: Functions, x_session_id: _HEADER_ID = None
) -> dict[str, Any]:
    """Cancel a piece of work by its id, or with `cancelAll` all of a session."""
    session_id = body.sessionId or x_session_id
    if body.workId is None and not (session_id and body.cancelAll):
        raise invalid_argument("workId", "or sessionId with cancelAll must be given")
    return await functions.call(
        "chat_cancel_work", session_id=session_id, work_id=body.workId, all=body.workId is None
    )


@routes.get("/api/async-messages")
async def list_messages(
    functions: Functions,
    named: Session,
    work_id: Annotated[str | None, Query(alias="workId", max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> dict[str, Any]:
    """Messages between work and people; returned ones count as read."""
    return await functions.call(
        "chat_notes_of", session_id=named, work_id=work_id, limit=limit, repeatable=False
    )


@routes.post("/api/async-messages")
async def send_message(
    body: MessageRequest,
    functions: Functions,
    services: Provided,
    x_session_id: _HEADER_ID = None,
) -> dict[str, Any]:
    """Answer a question in any words, or guide live work."""
    done = await functions.call(
        "chat_respond",
        session_id=await _named(body.sessionId, x_session_id),
        message_id=body.messageId,
        work_id=body.workId,
        content=body.content,
        repeatable=False,
    )
    if done.pop("wake"):
        await services.waker.wake()
    return done


def _classified(app: Chat, text: str, texts: list[Text], mode: Mode) -> Classification:
    found = classify(text, texts, forced=mode == "work")
    if found.items and not app.own.async_work:
        return Classification("standard", reasons=["background work is off: ENABLE_ASYNC_WORK"])
    if found.items and mode == "reply":
        return Classification("standard", reasons=["a direct answer was requested"])
    return found


#: How a request that came earlier was classified.
_EARLIER: Final = Classification("standard")
#: What an answer shows of work that has begun.
_WORK: Final = ("id", "type", "status", "estimatedDuration")


@dataclass(frozen=True)
class _Exchange:
    """One request on its way to its reply."""

    app: Chat
    functions: CallerFunctions
    services: Services
    session_id: str
    message_id: str
    #: On the monotonic clock; the wait for a reply is counted from here.
    began_at: float
    by_rules: Classification = _EARLIER
    wait_seconds: float = WAIT_SECONDS

    async def response(self) -> JSONResponse:
        """The answer, once there is a reply or work has begun; where to look when it takes long."""
        outcomes = [each async for each in self._outcomes()]
        status, body = self._answered(outcomes[-1])
        headers = {"X-Session-Id": self.session_id}
        if outcomes[-1].message is None:
            session = quote(self.session_id, safe="")
            headers["Location"] = f"/api/chat/replies/{body['messageId']}?sessionId={session}"
        return JSONResponse(body, status_code=status, headers=headers)

    async def stream(self) -> AsyncIterator[bytes]:
        """The same piece by piece: `text` events, and one `done` with the body, or an `error`."""
        sent = 0
        last: Outcome | None = None
        async for last in self._outcomes():
            text, start = _live_text(last)
            if last.message is not None:
                text, start = str(last.message["text"]), 0
            if text and start <= sent < start + len(text):
                yield frame(None, {"type": "text", "text": text[sent - start :]})
                sent = start + len(text)
        assert last is not None
        try:
            status, body = self._answered(last)
        except ApiError as error:
            yield frame(None, {"type": "error", "code": error.code, "error": error.error})
            return
        yield frame(None, {"type": "done", "status": status, **body})

    async def _outcomes(self) -> AsyncIterator[Outcome]:
        clock = self.services.clock
        most = WAIT_SECONDS if self.services.pace.streaming else BUFFERED_SECONDS
        until = self.began_at + min(most, self.wait_seconds)
        pause, longest = LOOK_SECONDS
        while True:
            found = await _outcome(self.functions, self.session_id, self.message_id)
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
                detail={"sessionId": self.session_id, "status": outcome.status},
            )
        begun = message is not None and message["kind"] == "plan"
        tier = (message or {}).get("tier") or self.by_rules.tier
        # the reasons of what decided
        reasons = (message or {}).get("reasons") or self.by_rules.reasons
        logger.info(
            "Request classified",
            extra={
                "event": "chat.classified",
                "tier": tier,
                "kinds": [each["type"] for each in outcome.work],
                "reasons": reasons,
                "by": "rules" if self.app.by_rules else "model",
            },
        )
        reply = str(message["text"]) if message else STILL_WRITING
        return 202 if begun or message is None else 200, {
            "sessionId": self.session_id,
            "messageId": f"msg_{self.message_id}",
            "tier": tier,
            "reasons": reasons,
            "reply": reply,
            "message": {"role": "assistant", "content": reply},
            "work": [{name: each[name] for name in _WORK} for each in outcome.work],
        }


async def _outcome(functions: CallerFunctions, session_id: str, message_id: str) -> Outcome:
    found = await functions.call("chat_outcome", session_id=session_id, message_id=message_id)
    return Outcome.model_validate(found)


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


def _live_text(outcome: Outcome) -> tuple[str, int]:
    """What a model has written so far and where that begins, see live.py."""
    stage = (outcome.progress or {}).get("stage") or ""
    place = stage.removeprefix("text:")
    if not stage.startswith("text:") or not place.isdigit():
        return "", 0
    return str((outcome.progress or {}).get("message") or ""), int(place)


def router(_: Services) -> APIRouter:
    """The app's routes."""
    return routes
