"""The app's routes, found by the `jobs` function: conversations of members and guests, sessions.

Each calls a SQL function under the caller's own token, or with a guest session's id as the key.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.chat.feed import ConversationFeed
from minutehand.apps.chat.models import (
    Conversation,
    ConversationPage,
    Message,
    MessagePage,
    Sent,
    Shared,
)
from minutehand.apps.chat.services import Chat
from minutehand.apps.chat.session_routes import SessionRoutes
from minutehand.queue.models import FeedPage
from minutehand.web import paging
from minutehand.web.auth import GuestSessionId, SignedIn, UserOrGuest
from minutehand.web.caller import token_of
from minutehand.web.idempotency import IdempotencyHeader, parse_key
from minutehand.web.services import Provided, Services
from minutehand.web.sse import MEDIA_TYPE
from minutehand.web.streams import Opening, asked_at, buffered_pace

Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class NewConversation(BaseModel):
    """A conversation to begin; in a guest session the workspace may be omitted."""

    model_config = ConfigDict(extra="forbid")

    workspace_id: UUID | None = None
    title: Title | None = Field(default=None, description="The first message's words when null.")


class NewTitle(BaseModel):
    """What to call a conversation."""

    model_config = ConfigDict(extra="forbid")

    title: Title


class Sharing(BaseModel):
    """How long a guest may come."""

    model_config = ConfigDict(extra="forbid")

    ttl_seconds: int = Field(default=86_400, ge=1, le=2_592_000)


class Answer(BaseModel):
    """An answer to a work item's question."""

    model_config = ConfigDict(extra="forbid")

    answer: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
    name: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="The question's name: 409 when it asks another one by now."
    )


class ChatRoutes:
    """The routes below `/api/chat`."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        made: dict[int | str, dict[str, Any]] = {
            201: {"description": "Taken; 200 when it had been taken before."}
        }
        add, one = router.add_api_route, "/conversations/{conversation_id}"
        item = f"{one}/work/{{work_item_id}}"
        add("/conversations", self.begin, methods=["POST"], status_code=201, responses=made)
        add("/conversations", self.list_conversations, methods=["GET"])
        add(one, self.get_conversation, methods=["GET"])
        add(one, self.rename, methods=["PATCH"])
        add(one, self.delete, methods=["DELETE"], status_code=204)
        add(f"{one}/share", self.share, methods=["POST"], status_code=201, responses=made)
        add(f"{one}/share", self.unshare, methods=["DELETE"], status_code=204)
        add(f"{one}/messages", self.send, methods=["POST"], status_code=201, responses=made)
        add(f"{one}/messages", self.list_messages, methods=["GET"])
        add(
            f"{one}/stream",
            self.get_stream,
            methods=["GET"],
            response_model=FeedPage,
            responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
        )
        add(f"{item}/answer", self.answer, methods=["POST"])
        add(f"{item}/cancel", self.cancel, methods=["POST"])
        add(f"{item}/retry", self.retry, methods=["POST"])

    async def begin(
        self,
        body: NewConversation,
        caller: UserOrGuest,
        response: Response,
        session_id: GuestSessionId = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> Conversation:
        """Begin a conversation; the same Idempotency-Key finds the same one, with 200."""
        store = self._app.acting_as(token_of(caller), session_id)
        key = parse_key(idempotency_key)
        made = await store.open(body.workspace_id, body.title, key=key)
        if not made["created"]:
            response.status_code = 200
        return await store.read(made["conversation_id"])

    async def list_conversations(
        self,
        caller: UserOrGuest,
        workspace_id: UUID | None = None,
        session_id: GuestSessionId = None,
        after: Annotated[
            str | None, Query(max_length=200, description="The `next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> ConversationPage:
        """Conversations of a workspace, or of a guest session, the one written in last first."""
        store = self._app.acting_as(token_of(caller), session_id)
        at = paging.decode(after, datetime, UUID) if after is not None else None
        before = (at[0], at[1]) if at is not None else None
        rows = await store.conversations(workspace_id, before=before, limit=limit)
        last = rows[-1] if len(rows) == limit else None
        following = paging.encode(last["last_message_at"], last["id"]) if last else None
        return ConversationPage.model_validate({"conversations": rows, "next": following})

    async def get_conversation(
        self, conversation_id: UUID, caller: UserOrGuest, session_id: GuestSessionId = None
    ) -> Conversation:
        """A conversation, its newest work items with their questions, and replies to come."""
        return await self._app.acting_as(token_of(caller), session_id).read(conversation_id)

    async def rename(
        self,
        conversation_id: UUID,
        body: NewTitle,
        caller: UserOrGuest,
        session_id: GuestSessionId = None,
    ) -> Conversation:
        """Call a conversation something else; for who began it, and managers."""
        store = self._app.acting_as(token_of(caller), session_id)
        await store.rename(conversation_id, body.title)
        return await store.read(conversation_id)

    async def delete(
        self, conversation_id: UUID, caller: UserOrGuest, session_id: GuestSessionId = None
    ) -> None:
        """Delete a conversation and cancel its live work; for who began it, and managers."""
        await self._app.acting_as(token_of(caller), session_id).delete(conversation_id)

    async def share(
        self, conversation_id: UUID, body: Sharing, caller: SignedIn, response: Response
    ) -> Shared:
        """Open a conversation to a guest without an account, who holds a guest session's id.

        For managers; while it is open every member finds the same guest session, with 200.
        """
        store = self._app.as_member(caller.token)
        shared = await store.share(conversation_id, body.ttl_seconds)
        if not shared["created"]:
            response.status_code = 200
        return Shared.model_validate(shared)

    async def unshare(self, conversation_id: UUID, caller: SignedIn) -> None:
        """Close the guest session a conversation is open to; for managers. May be repeated."""
        await self._app.as_member(caller.token).unshare(conversation_id)

    async def send(
        self,
        conversation_id: UUID,
        body: Message,
        caller: UserOrGuest,
        services: Provided,
        response: Response,
        session_id: GuestSessionId = None,
    ) -> Sent:
        """Say something; the reply, or the work it becomes, comes by the conversation's stream."""
        store = self._app.acting_as(token_of(caller), session_id)
        sent = await store.send(conversation_id, body.model_dump(mode="json"))
        if sent["wake"]:
            await services.waker.wake()
        if not sent["created"]:
            response.status_code = 200
        return Sent.model_validate(sent)

    async def list_messages(
        self,
        conversation_id: UUID,
        caller: UserOrGuest,
        session_id: GuestSessionId = None,
        before: Annotated[
            int | None, Query(ge=1, le=2_147_483_647, description="Messages before this `seq`.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> MessagePage:
        """The latest messages, in order; older ones by `before`."""
        store = self._app.acting_as(token_of(caller), session_id)
        rows = await store.messages(conversation_id, before=before, limit=limit)
        first = rows[0]["seq"] if rows and rows[0]["seq"] > 1 else None
        return MessagePage.model_validate({"messages": rows, "before": first})

    async def get_stream(
        self,
        request: Request,
        conversation_id: UUID,
        caller: UserOrGuest,
        services: Provided,
        session_id: GuestSessionId = None,
        cursor: Annotated[str | None, Query(max_length=4096)] = None,
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> Any:
        """All that happens in the conversation's session, text being written as progress.

        A guest session's stream covers all its conversations.
        """
        began_at = asked_at(request, services.clock)
        store = self._app.streaming_to(token_of(caller), session_id)

        async def find() -> ConversationFeed:
            return ConversationFeed(
                await store.read(conversation_id),
                store,
                services.stream_queue_of(caller),
                after=last_event_id or cursor,
                reads=services.hub.reads,
                circle=str(caller.subject) if caller is not None else "guests",
            )

        if MEDIA_TYPE not in request.headers.get("accept", ""):
            return await (await find()).page()
        guest = f"conversation:{conversation_id}"
        async with Opening(request, services, caller, guest=guest) as opening:
            feed = await opening.read(find())
            first = await opening.read(feed.read())
            return opening.stream(feed, first, began_at=began_at, pace=buffered_pace(services))

    async def answer(
        self,
        conversation_id: UUID,
        work_item_id: UUID,
        body: Answer,
        caller: UserOrGuest,
        services: Provided,
        session_id: GuestSessionId = None,
    ) -> Conversation:
        """Answer a work item's question; the first answer wins, the others get 409."""
        store = self._app.acting_as(token_of(caller), session_id)
        said = body.model_dump(exclude_none=True)
        answered = await store.answer(conversation_id, work_item_id, said)
        if answered["wake"]:
            await services.waker.wake()
        return await store.read(conversation_id)

    async def cancel(
        self,
        conversation_id: UUID,
        work_item_id: UUID,
        caller: UserOrGuest,
        session_id: GuestSessionId = None,
    ) -> Conversation:
        """Cancel a work item, or the writing of a reply by its job's id. Harmless when repeated."""
        store = self._app.acting_as(token_of(caller), session_id)
        await store.cancel(conversation_id, work_item_id)
        return await store.read(conversation_id)

    async def retry(
        self,
        conversation_id: UUID,
        work_item_id: UUID,
        caller: UserOrGuest,
        services: Provided,
        session_id: GuestSessionId = None,
    ) -> Conversation:
        """Run a failed or cancelled work item or reply again; its finished steps are kept."""
        store = self._app.acting_as(token_of(caller), session_id)
        retried = await store.retry(conversation_id, work_item_id)
        if retried["wake"]:
            await services.waker.wake()
        return await store.read(conversation_id)


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Chat, lambda: Chat(services.settings))
    routes = APIRouter(tags=["chat"])
    SessionRoutes(app).add_to(routes)
    conversations = APIRouter(prefix="/api/chat", tags=["chat"])
    ChatRoutes(app).add_to(conversations)
    routes.include_router(conversations)
    return routes
