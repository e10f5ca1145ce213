"""A stream of an entity: the numbered events of a plan or anything else, as SSE and as JSON.

What an entity is, and who sees its events, is in SQL: `queue.make_stream`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict

from minutehand.queue.dependencies import Dependencies
from minutehand.queue.functions import CallerFunctions
from minutehand.web.auth import UserOrGuest
from minutehand.web.caller import Caller, token_of
from minutehand.web.feeds import READ_LIMIT, SharedFeed, seq_cursor
from minutehand.web.services import Provided, Services
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import MEDIA_TYPE, Batch, UnnamedLine
from minutehand.web.streams import Opening, asked_at, buffered_pace

JSON: Final = "application/json"


class EntityEvent(BaseModel):
    """Something that happened to an entity, which `<name>_id` names."""

    model_config = ConfigDict(extra="allow")

    seq: int
    type: str
    data: dict[str, Any]
    at: AwareDatetime


E = TypeVar("E", bound=EntityEvent)


class EntityPage(BaseModel, Generic[E]):
    """Events after a `seq`; `ended` is how the entity ended, null while it has not."""

    events: list[E]
    more: bool
    ended: str | None


class EntityStream:
    """The stream of one kind of entity, as `queue.make_stream` declared it.

    Args:
        name: As declared, such as `plan`.
        app: Has the connections that read it.
        page: What a page of JSON looks like, where events have a model of their own.
    """

    def __init__(
        self,
        name: str,
        app: Dependencies,
        *,
        page: type[EntityPage[Any]] = EntityPage[EntityEvent],
    ) -> None:
        self.name = name
        self._app = app
        self._page = page

    def add_to(self, router: APIRouter) -> None:
        """Add `GET /{<name>_id}/stream`: events that resume, as a stream or as JSON by `Accept`."""
        named = Path(alias=f"{self.name}_id")

        async def get_stream(
            request: Request,
            caller: UserOrGuest,
            services: Provided,
            entity_id: UUID = named,
            after: Annotated[int | None, Query(ge=0)] = None,
            last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
        ) -> Any:
            position = seq_cursor(last_event_id, after)
            return await self._answer(request, entity_id, caller, services, position)

        router.add_api_route(
            f"/{{{self.name}_id}}/stream",
            get_stream,
            methods=["GET"],
            response_model=self._page,
            description=f"Every event of the {self.name} from the first, until it ends.\n\nEvents"
            f" are unnamed and carry `{{{self.name}_id, seq, type, data, at}}`; `Last-Event-ID`"
            " resumes. JSON by `Accept: application/json`.",
            responses={
                200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
                204: {"description": f"The {self.name} has ended and everything was read: stop."},
            },
        )

    async def page(
        self, caller: Caller | None, entity_id: UUID, after: int, limit: int = READ_LIMIT
    ) -> EntityPage[Any]:
        """Events after a seq.

        Raises:
            QueueError: 404 `<name>_not_found`, it is missing, deleted, or not the caller's.
        """
        functions = self._app.acting_as(token_of(caller))
        return (await self._read(functions, entity_id, after, limit))[0]

    async def _read(
        self,
        functions: CallerFunctions,
        entity_id: UUID,
        after: int,
        limit: int = READ_LIMIT,
        *,
        is_open: bool = False,
    ) -> tuple[EntityPage[Any], str]:
        """A page and the topic that carries them; with `is_open` also of one deleted since."""
        of: dict[str, Any] = {f"{self.name}_id": entity_id}
        found = await functions.call(
            f"{self.name}_events_after", after=after, limit=limit, is_open=is_open, **of
        )
        return self._page.model_validate(found), found["topic"]

    async def _answer(
        self,
        request: Request,
        entity_id: UUID,
        caller: Caller | None,
        services: Services,
        after: int,
    ) -> Any:
        began_at = asked_at(request, services.clock)
        accept = request.headers.get("accept", "")
        if JSON in accept and MEDIA_TYPE not in accept:
            return await self.page(caller, entity_id, after)
        functions = self._app.streaming_to(token_of(caller))
        guest = f"{self.name}:{entity_id}"
        async with Opening(request, services, caller, guest=guest) as opening:
            page, topic = await opening.read(self._read(functions, entity_id, after))
            if page.ended is not None and not page.events:
                return Response(status_code=204)  # which stops EventSource from reconnecting
            feed = _EntityFeed(
                partial(self._read, functions, entity_id, is_open=True),
                entity_id,
                after,
                topic,
                reads=services.hub.reads,
                circle=str(caller.user_id) if caller is not None else "guests",
            )
            pace = buffered_pace(services)
            first = feed.batch(page)
            return opening.stream(feed, first, began_at=began_at, pace=pace, is_bare=True)


class _EntityFeed(SharedFeed):
    """One entity's events by `seq`; a guest's topic carries several entities."""

    def __init__(
        self,
        read: Callable[..., Awaitable[tuple[EntityPage[Any], str]]],
        entity_id: UUID,
        after: int,
        topic: str,
        *,
        reads: SharedReads,
        circle: str,
    ) -> None:
        super().__init__(topic, reads=reads, circle=circle)
        self._read = read
        self._id = entity_id
        self._after = after

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """Events after the last one read; the end when it has one and nothing is left.

        Raises:
            QueueError: 404, it was deleted a while ago, or is no longer the reader's.
        """
        after = self._after
        page, _ = await self.shared((self._id, after), lambda: self._read(after), since)
        return self.batch(page)

    def batch(self, page: EntityPage[Any]) -> Batch:
        """The page's events as lines, after which the next read begins."""
        if page.events:
            self._after = page.events[-1].seq
        lines = [
            UnnamedLine(str(event.seq), event.type, event.model_dump(mode="json"))
            for event in page.events
        ]
        return Batch(lines, end=None if page.more else page.ended, more=page.more)

    async def check(self) -> Batch:
        """Whether there is more, and whether it can still be reached.

        Raises:
            QueueError: 404, as of `read`.
        """
        page, _ = await self._read(self._after, limit=1)
        return Batch(more=bool(page.events) or page.ended is not None)
