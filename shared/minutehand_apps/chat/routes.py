"""The app's routes: chat, and a session's messages, work, events and cancellation.

A session belongs to the user who created it. A guest's session is open to anyone who knows its id.
The SQL functions enforce the rules.
"""

import asyncio
import logging
import secrets
from typing import Annotated, Any, Literal
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
    UserOrGuestFunctions,
    UserOrGuestUnslotted,
    invalid_argument,
    not_found,
    parse_key,
    sse,
)
from minutehand_apps.chat.models import Page
from minutehand_apps.chat.page import render
from minutehand_apps.chat.session_feed import SessionFeed

logger = logging.getLogger(__name__)

#: Maximum seconds until a reply. Behind a gateway, the function has 20 s in total.
WAIT_SECONDS = 60.0
STILL_WRITING = "Your answer is still being written. It will be a message of this session."
_SESSION_ID = Annotated[str | None, Query(alias="sessionId", max_length=200)]
_HEADER_ID = Annotated[str | None, Header(alias="X-Session-Id", max_length=200)]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


class PostedMessage(BaseModel):
    """One message in a request."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]


class ChatRequest(BaseModel):
    """A request, whose last message is new. The session stores the earlier messages."""

    messages: Annotated[list[PostedMessage], Field(min_length=1, max_length=200)]
    workspace_id: UUID | None = None
    ask_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Seconds until a question's default is used."
    )
    branch_from: str | None = Field(
        default=None,
        pattern="^msg_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        description="Id of a message. A new session begins with the messages before it.",
    )


class CancelRequest(BaseModel):
    """Names a work item to cancel, or a session whose work is cancelled."""

    workId: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    sessionId: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    cancelAll: bool = False


class MessageRequest(BaseModel):
    """An answer to the question with the id `messageId`."""

    messageId: Annotated[str, Field(min_length=1, max_length=100)]
    sessionId: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    content: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


routes = APIRouter(tags=["chat"])


async def _named(session_id: _SESSION_ID = None, x_session_id: _HEADER_ID = None) -> str:
    named = session_id or x_session_id
    if not named:
        raise invalid_argument("sessionId", "is required", location="query")
    return named


#: Id of the session that a request names in its query or in its header.
Session = Annotated[str, Depends(_named)]


@routes.post(
    "/api/chat",
    responses={202: {"description": "Work has started, or the reply takes longer."}},
    response_model=None,
)
async def chat(
    request: Request,
    body: ChatRequest,
    caller: UserOrGuestUnslotted,
    services: Provided,
    x_session_id: _HEADER_ID = None,
    idempotency_key: IdempotencyHeader = None,
    prefer: Annotated[str | None, Header(max_length=200)] = None,
) -> JSONResponse:
    """Post a message. Return 200 with the reply, or 202 with the work that has started.

    With `Prefer: respond-async`, return 202 with the job without waiting for the reply.
    """
    key, began_at = parse_key(idempotency_key), services.clock.monotonic()
    if body.messages[-1].role != "user":
        raise invalid_argument("messages", "must end with a message of role user")
    session_id = x_session_id or f"chat_{secrets.token_hex(32)}"
    functions = services.queue_of(caller)
    async with services.request_slot(request, caller):
        message = await functions.call(
            "chat_request",
            session_id=session_id,
            repeatable=key is not None,
            request={
                "text": body.messages[-1].content,
                "client_id": key,
                "ask_seconds": body.ask_seconds,
                "workspace_id": body.workspace_id,
                "branch_from": body.branch_from and body.branch_from.removeprefix("msg_"),
            },
        )
    if message["wake"]:
        await services.waker.wake()
    answer: dict[str, Any] = {"sessionId": session_id, "messageId": f"msg_{message['message_id']}"}
    if "respond-async" in (prefer or ""):
        headers = {"X-Session-Id": session_id, "Preference-Applied": "respond-async"}
        return JSONResponse(answer | {"job": message["job_id"]}, status_code=202, headers=headers)
    with services.stream_slot(request, caller):
        outcome = await _outcome(functions, services, session_id, message["message_id"], began_at)
    work, reply = outcome["work"], outcome["reply"]
    if reply is None and not work and outcome["status"] in {"failed", "cancelled"}:
        reason = outcome["error_message"] or "The reply was cancelled"
        raise ApiError(502, "reply_failed", reason, detail={"sessionId": session_id})
    tier = "async" if work else "standard"
    logger.info(
        "Request classified",
        extra={
            "event": "chat.classified",
            "tier": tier if work or reply else "unknown yet",
            "kinds": [item["type"] for item in work],
        },
    )
    text = reply or outcome["waits_for"] or STILL_WRITING
    answer |= {
        "tier": tier,
        "reply": text,
        "message": {"role": "assistant", "content": text},
        "work": work,
    }
    status = 202 if work or reply is None else 200
    return JSONResponse(answer, status_code=status, headers={"X-Session-Id": session_id})


@routes.get("/api/chat")
async def said(functions: UserOrGuestFunctions, named: Session) -> dict[str, Any]:
    """Return the latest messages of a session, the oldest first."""
    return await functions.call("chat_said", session_id=named)


@routes.get("/api/chat/pages/msg_{message_id}", response_class=HTMLResponse)
async def page(request: Request, message_id: UUID, services: Provided) -> HTMLResponse:
    """Show the HTML page that a job built for a message. The random id grants access."""
    async with services.request_slot(request, None):
        found = await services.queue_of(None).call("chat_page", message_id=message_id)
    content = found["page"]
    if content is None:
        raise not_found("page")
    return render(Page.model_validate(content), content.get("note", ""))


@routes.get("/api/async-status")
async def status(functions: UserOrGuestFunctions, named: Session) -> dict[str, Any]:
    """Return the state of a session's work. For an unknown session, the state is empty."""
    return await functions.call("chat_status", session_id=named)


@routes.get("/api/async-events", responses=_STREAM, response_model=None)
async def events(
    request: Request,
    caller: UserOrGuestUnslotted,
    services: Provided,
    named: Session,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=4096)] = None,
) -> Response:
    """Stream a session's events.

    The first event is `connected`. `Last-Event-ID` resumes a stream.
    """
    feed = SessionFeed(
        named, services.stream_queue_of(caller), after=last_event_id, now=services.clock.now()
    )
    return await sse.stream_response(request, services, caller, feed, wait=sse.BUFFERED_SECONDS)


@routes.post("/api/async-cancel")
async def cancel(
    body: CancelRequest, functions: UserOrGuestFunctions, x_session_id: _HEADER_ID = None
) -> dict[str, Any]:
    """Cancel a work item by its id. With `cancelAll`, cancel all work of a session."""
    session_id = body.sessionId or x_session_id
    if body.workId is None and not (session_id and body.cancelAll):
        raise invalid_argument("workId", "or sessionId with cancelAll is required")
    return await functions.call("chat_cancel", session_id=session_id, work_id=body.workId)


@routes.get("/api/async-messages")
async def list_messages(functions: UserOrGuestFunctions, named: Session) -> dict[str, Any]:
    """Return messages between work items and people, and mark them as read."""
    return await functions.call("chat_messages", session_id=named, repeatable=False)


@routes.post("/api/async-messages")
async def send_message(
    body: MessageRequest,
    functions: UserOrGuestFunctions,
    services: Provided,
    x_session_id: _HEADER_ID = None,
) -> dict[str, Any]:
    """Answer a question of a work item with free text."""
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
    """Wait for the reply to a message, the end of its job, or a timeout. Return the outcome."""
    until = began_at + (WAIT_SECONDS if services.timing.streaming else sse.BUFFERED_SECONDS)
    pause = 0.05
    while True:
        outcome = await functions.call("chat_outcome", session_id=session_id, message_id=message_id)
        is_over = outcome["reply"] is not None or outcome["status"] in {"failed", "cancelled", None}
        if is_over or services.clock.monotonic() >= until:
            return outcome
        await asyncio.sleep(pause)
        pause = min(0.5, pause * 1.5)


def router(_: Services) -> APIRouter:
    """Return the app's routes."""
    return routes
