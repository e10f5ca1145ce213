"""What routes work with, made once per process and found as `request.app.state.services`.

Which waker and hub a process has is decided by `functions/` or the local stack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar
from uuid import UUID

from fastapi import Depends, Request

from minutehand.clock import Clock, SystemClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.client import QueueClient, UserQueue
from minutehand.queue.data_api import STREAM_CONNECTIONS, DataApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.web.caller import Caller, token_of
from minutehand.web.errors import ApiError
from minutehand.web.hub import EventHub
from minutehand.web.limits import CallerLimits
from minutehand.web.sse import Pace
from minutehand.web.upstream import RealtimeUpstream

if TYPE_CHECKING:
    from minutehand.web.tokens import TokenVerifier

T = TypeVar("T")


class Waker(Protocol):
    """Asks for a tick soon; never raises and never takes long."""

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Ask for a tick soon."""
        ...


class NoWaker:
    """Leaves every job to the minute tick."""

    async def wake(self, *, reason: str = "enqueue") -> None:
        """Do nothing: the tick is the net."""


class Services:
    """Clients and dependencies of one process; nothing is connected before it is needed."""

    def __init__(
        self,
        settings: Settings,
        *,
        waker: Waker | None = None,
        clock: Clock | None = None,
        hub: EventHub | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.settings = settings
        self.waker: Waker = waker or NoWaker()
        self.clock: Clock = clock or SystemClock()
        self.queue = QueueClient(settings)
        # streams read through connections of their own: however many are open, a route gets one
        self._streams = QueueClient(
            settings,
            api=DataApi(
                settings.supabase_url,
                schema=settings.schema_name,
                connections=STREAM_CONNECTIONS,
            ),
        )
        self.limits = CallerLimits(
            self.clock,
            requests_per_second=settings.caller_requests_per_second,
            requests_burst=settings.caller_requests_burst,
            streams=settings.caller_streams,
        )
        self.pace = pace or Pace(
            streaming=settings.streaming, buffered_wait=settings.stream_wait_seconds
        )
        self._provided: dict[type[Any], Any] = {}
        self.hub = hub or EventHub()
        if hub is None and settings.streaming:
            self.hub.feed_from(
                RealtimeUpstream(settings, self.hub, self.clock, follow_topic=self._follow_topic)
            )

    @cached_property
    def verifier(self) -> TokenVerifier:
        """Verifies users' tokens; imported with the first of them."""
        from minutehand.web.tokens import TokenVerifier

        return TokenVerifier(self.settings, self.clock)

    def queue_of(self, caller: Caller | None) -> UserQueue:
        """The queue as `caller` sees it; as an anonymous guest sees it for None."""
        return self.queue.acting_as(token_of(caller))

    def stream_queue_of(self, caller: Caller | None) -> UserQueue:
        """The queue as `caller` sees it, for reads that a stream makes while it is open."""
        return self._streams.acting_as(token_of(caller))

    async def _follow_topic(self, topic: str, token: str | None, follower_id: UUID) -> None:
        await self._streams.acting_as(token).follow_topic(topic, follower_id)

    @cached_property
    def operator_queue(self) -> WorkerQueue:
        """The queue as its operator sees it: health and statistics over all workspaces.

        Raises:
            ApiError: 503, this deployment holds no key for it.
        """
        try:
            # through the routes' own connections: what keeps them from answering must show
            return WorkerQueue(self.settings, api=self.queue.api, clock=self.clock)
        except ConfigurationError as error:
            raise ApiError(
                503, "not_configured", "This deployment cannot read the queue's health"
            ) from error

    def provide(self, kind: type[T], make: Callable[[], T]) -> T:
        """The process's one instance of `kind`, made on first use; for packages unknown here.

        One that has `aclose` is closed with the services, which Lambda's rotation of secrets does
        as well: nothing ends the lifespan of an app there.
        """
        if kind not in self._provided:
            self._provided[kind] = make()
        found: T = self._provided[kind]
        return found

    async def aclose(self) -> None:
        """End streams and close connections."""
        await self.hub.aclose()
        for each in self._provided.values():
            if hasattr(each, "aclose"):
                await each.aclose()
        await self._streams.aclose()
        await self.queue.aclose()


def services_of(request: Request) -> Services:
    """Dependency: the services of the app that serves `request`."""
    services: Services = request.app.state.services
    return services


#: The process's services as a route's argument.
Provided = Annotated[Services, Depends(services_of)]
