"""The app's routes: a session's chat, its work's state, events, messages and cancelling.

A session is named by its id and belongs to a guest or to the calling user; the rules are in SQL.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from minutehand.queue import CallerFunctions
from minutehand.web import (
    ApiError,
    IdempotencyHeader,
    Provided,
    Services,
    UserOrGuest,
    UserOrGuestUnslotted,
    invalid_argument,
    not_found,
    parse_key,
    sse,
    token_of,
)
from minutehand_apps.chat.models import Page
from minutehand_apps.chat.page import render
from minutehand_apps.chat.services import Chat
from minutehand_apps.chat.session_feed import SessionFeed

logger = logging.getLogger(__name__)

#: How long a reply is waited for; behind a gateway the function has 20 s in all.
WAIT_SECONDS: Final = 60.0
STILL_WRITING: Final = "Your answer is still being written; it comes as a message of the session."
_SESSION_ID = Annotated[str | None, Query(alias="sessionId", max_length=200)]
_HEADER_ID = Annotated[str | None, Header(alias="X-Session-Id", max_length=200)]
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}}
}
#: A page runs nothing and loads nothing, wherever it is opened.
_HARMLESS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}


class Turn(BaseModel):
    """One message of a request."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]


class ChatRequest(BaseModel):
    """What is said: the last message; the ones before are in the session."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=200)]
    workspace_id: UUID | None = None
    ask_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Then a question's default is taken."
    )


class CancelRequest(BaseModel):
    """One piece of work, or all work of a session."""

    workId: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    sessionId: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    cancelAll: bool = False


class MessageRequest(BaseModel):
    """An answer to the question `messageId`."""

    messageId: Annotated[str, Field(min_length=1, max_length=100)]
    sessionId: Annotated[str, Field(min_length=1, max_length=200)] | None = None
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


#: The app's SQL functions as the caller may call them.
Functions = Annotated[CallerFunctions, Depends(_acting)]
#: The session that a request names in its query or header.
Session = Annotated[str, Depends(_named)]


@routes.post(
    "/api/chat",
    responses={202: {"description": "Work has begun, or the reply takes longer."}},
    response_model=None,
)
async def chat(
    request: Request,
    body: ChatRequest,
    caller: UserOrGuestUnslotted,
    services: Provided,
    x_session_id: _HEADER_ID = None,
    idempotency_key: IdempotencyHeader = None,
) -> JSONResponse:
    """Say something: 200 with the reply, or 202 with the work that has begun."""
    key, began_at = parse_key(idempotency_key), services.clock.monotonic()
    if body.messages[-1].role != "user":
        raise invalid_argument("messages", "must end with a message of role user")
    session_id = x_session_id or f"chat_{secrets.token_hex(32)}"
    functions = await _acting(caller, services)
    async with services.request_slot(request, caller):
        made = await functions.call(
            "chat_request",
            session_id=session_id,
            repeatable=key is not None,
            request={
                "text": body.messages[-1].content,
                "client_id": key,
                "ask_seconds": body.ask_seconds,
                "workspace_id": body.workspace_id,
            },
        )
    if made["wake"]:
        await services.waker.wake()
    with services.stream_slot(request, caller):
        found = await _outcome(functions, services, session_id, made["message_id"], began_at)
    work, reply = found["work"], found["reply"]
    if reply is None and not work and found["status"] in {"failed", "cancelled"}:
        reason = found["error_message"] or "The reply was stopped"
        raise ApiError(502, "reply_failed", reason, detail={"sessionId": session_id})
    tier = "async" if work else "standard"
    logger.info(
        "Request classified",
        extra={
            "event": "chat.classified",
            "tier": tier if work or reply else "unknown yet",
            "kinds": [each["type"] for each in work],
        },
    )
    text = reply or found["waits_for"] or STILL_WRITING
    answer = {
        "sessionId": session_id,
        "messageId": f"msg_{made['message_id']}",
        "tier": tier,
        "reply": text,
        "message": {"role": "assistant", "content": text},
        "work": work,
    }
    status = 202 if work or reply is None else 200
    return JSONResponse(answer, status_code=status, headers={"X-Session-Id": session_id})


@routes.get("/api/chat")
async def said(functions: Functions, named: Session) -> dict[str, Any]:
    """A session's conversation: its latest messages in order."""
    return await functions.call("chat_said", session_id=named)


@routes.get("/api/chat/pages/msg_{message_id}", response_class=HTMLResponse)
async def page(request: Request, message_id: UUID, services: Provided) -> HTMLResponse:
    """The page that a result brought; its address is the key to it."""
    functions = (await _provided(services)).acting_as(None)
    async with services.request_slot(request, None):
        content = (await functions.call("chat_page", message_id=message_id))["page"]
    if content is None:
        raise not_found("page")
    shown = render(Page.model_validate(content), content.get("note", ""))
    return HTMLResponse(shown, headers=_HARMLESS)


@routes.get("/api/async-status")
async def status(functions: Functions, named: Session) -> dict[str, Any]:
    """The state of a session's work; empty for an unknown session."""
    return await functions.call("chat_status", session_id=named)


@routes.get("/api/async-events", responses=_STREAM, response_model=None)
async def events(
    request: Request,
    caller: UserOrGuestUnslotted,
    services: Provided,
    named: Session,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=4096)] = None,
) -> Response:
    """A session's events from the first, unnamed, `connected` first; `Last-Event-ID` resumes."""
    feed = SessionFeed(
        named,
        (await _provided(services)).streaming_to(token_of(caller)),
        after=last_event_id,
        now=services.clock.now(),
    )
    return await sse.stream_response(request, services, caller, feed, wait=sse.BUFFERED_SECONDS)


@routes.post("/api/async-cancel")
async def cancel(
    body: CancelRequest, functions: Functions, x_session_id: _HEADER_ID = None
) -> dict[str, Any]:
    """Cancel a piece of work by its id, or with `cancelAll` all of a session."""
    session_id = body.sessionId or x_session_id
    if body.workId is None and not (session_id and body.cancelAll):
        raise invalid_argument("workId", "or sessionId with cancelAll must be given")
    return await functions.call("chat_cancel", session_id=session_id, work_id=body.workId)


@routes.get("/api/async-messages")
async def list_messages(functions: Functions, named: Session) -> dict[str, Any]:
    """Messages between work and people; they count as read."""
    return await functions.call("chat_messages", session_id=named, repeatable=False)


@routes.post("/api/async-messages")
async def send_message(
    body: MessageRequest, functions: Functions, services: Provided, x_session_id: _HEADER_ID = None
) -> dict[str, Any]:
    """Answer a question in any words."""
    done = await functions.call(
        "chat_respond",
        session_id=await _named(body.sessionId, x_session_id),
        message_id=body.messageId,
        content=body.content,
        repeatable=False,
    )
    await services.waker.wake()
    return done


async def _outcome(
    functions: CallerFunctions,
    services: Services,
    session_id: str,
    message_id: str,
    began_at: float,
) -> dict[str, Any]:
    """What became of a message, once there is a reply or an end, or the wait is over."""
    until = began_at + (WAIT_SECONDS if services.timing.streaming else sse.BUFFERED_SECONDS)
    pause = 0.05
    while True:
        found = await functions.call("chat_outcome", session_id=session_id, message_id=message_id)
        over = found["reply"] is not None or found["status"] in {"failed", "cancelled", None}
        if over or services.clock.monotonic() >= until:
            return found
        await asyncio.sleep(pause)
        pause = min(0.5, pause * 1.5)


def router(_: Services) -> APIRouter:
    """The app's routes."""
    return routes
