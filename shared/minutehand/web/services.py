"""Clients and dependencies of routes, which a process builds once as `app.state.services`.

`functions/` or the local stack chooses the waker of a process, which requests worker runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Request

from minutehand.clock import Clock, SystemClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.client import QueueClient, UserQueue
from minutehand.queue.data_api import STREAM_CONNECTIONS
from minutehand.queue.dependencies import AddressSigner
from minutehand.queue.worker_client import WorkerQueue
from minutehand.web.caller import Caller, rate_limit_subject, token_of
from minutehand.web.errors import RETRY_AFTER_SECONDS, ApiError, unavailable
from minutehand.web.listener import EventListener

if TYPE_CHECKING:
    from minutehand.web.tokens import TokenVerifier

T = TypeVar("T")


class Waker(Protocol):
    """Requests worker runs. A waker never raises an error and returns quickly."""

    async def wake(self) -> None:
        """Request a worker run."""
        ...


class NoWaker:
    """Waker that requests no worker run. The worker run of the next minute starts the jobs."""

    async def wake(self) -> None:
        """Do nothing, because the worker run of the next minute starts the jobs."""


@dataclass(frozen=True)
class StreamTiming:
    """Waits and timeouts of an event stream, in seconds."""

    #: True if a response stays open, and false if a response ends after its events, so that the
    #: client reconnects.
    streaming: bool
    #: Maximum wait for the first event of a buffered response. The sum of `buffered_wait` and
    #: `read_timeout` must be below the function's 28 s and the gateway's 30 s.
    buffered_wait: float = 20.0
    #: Maximum duration of one read of the event log. A longer read is cancelled, and repeated
    #: later.
    read_timeout: float = 5.0
    #: Interval of the comments that keep proxies from closing an idle stream.
    keep_alive: float = 15.0
    #: Interval between reads after an event. While no events arrive, the interval grows to
    #: `max_poll`.
    poll: float = 0.2
    max_poll: float = 1.0
    #: Interval between reads while notifications arrive. Reads without a notification find changes
    #: without an event, such as the end of a membership.
    max_recheck: float = 10.0
    #: Seconds after which a client that accepts no data is disconnected.
    stall_timeout: float = 30.0
    #: Seconds that a client waits before it reconnects.
    retry: float = 2.0


#: Maximum number of open streams in a process, and per caller. Guests may use half of all streams.
MAX_STREAMS = 5_000
MAX_STREAMS_PER_CALLER = 100
#: Maximum running requests per caller, maximum waiting requests per caller, and maximum running
#: requests of all guests together. A running request uses a database connection, and all callers
#: share the connections.
MAX_REQUESTS_PER_CALLER = 4
MAX_WAITING_PER_CALLER = 200
MAX_GUEST_REQUESTS = 8
#: Maximum concurrent checks of secret keys. The number is limited, because anyone can invent keys.
MAX_KEY_CHECKS = 2


def _too_many(name: str) -> ApiError:
    return ApiError(
        429,
        "rate_limited",
        f"Too many {name} at once; try again in {RETRY_AFTER_SECONDS} s",
        detail={"limit": name, "retry_after_seconds": RETRY_AFTER_SECONDS},
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class RequestLimiter:
    """Limits the concurrent requests of each caller.

    Requests above the limit wait without a database connection.
    """

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Semaphore] = {}
        self._pending: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, caller: str, limit: int = MAX_REQUESTS_PER_CALLER) -> AsyncIterator[None]:
        """Wait for one of the caller's request slots, and occupy it until the block ends."""
        if self._pending[caller] >= limit + MAX_WAITING_PER_CALLER:
            raise _too_many("requests")
        running = self._running.setdefault(caller, asyncio.Semaphore(limit))
        self._pending[caller] += 1
        try:
            async with running:
                yield
        finally:
            self._pending[caller] -= 1
            if not self._pending[caller]:
                del self._pending[caller], self._running[caller]


#: Maximum reads of the event log per second by all streams of a process, and reads in one burst.
MAX_READ_RATE = 200.0
READ_BURST = 40


class SlotLimiter:
    """Slots for callers. A call without a free slot is rejected.

    Args:
        name: Plural noun for the error message, such as `streams`.
        per_caller: Maximum slots of one caller.
        limit: Maximum slots of all callers.

    Attributes:
        count: Number of occupied slots.
    """

    def __init__(self, name: str, per_caller: int, *, limit: float = math.inf) -> None:
        self.count = 0
        self._name = name
        self._per_caller = per_caller
        self._limit = limit
        self._callers: Counter[str] = Counter()

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Occupy one of a caller's slots until the block ends."""
        if self.count >= self._limit:
            raise unavailable(f"This server has no capacity for more {self._name}")
        if self._callers[caller] >= self._per_caller:
            raise _too_many(self._name)
        self.count += 1
        self._callers[caller] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]


class ReadPacer:
    """Delays the reads of all streams of a process, so that they keep one common rate limit."""

    def __init__(self) -> None:
        self._read_at = 0.0

    def seconds_left(self) -> float:
        """Reserve a read, and return the seconds until this read may start."""
        now = time.monotonic()
        self._read_at = max(self._read_at, now - READ_BURST / MAX_READ_RATE)
        self._read_at += 1 / MAX_READ_RATE
        return max(0.0, self._read_at - now)


class Services:
    """Clients and dependencies of one process. A client connects when it is first used."""

    def __init__(
        self,
        settings: Settings,
        *,
        waker: Waker | None = None,
        clock: Clock | None = None,
        timing: StreamTiming | None = None,
    ) -> None:
        self.settings = settings
        self.waker: Waker = waker or NoWaker()
        self.clock: Clock = clock or SystemClock()
        self.queue = QueueClient(settings)
        # streams have their own connections, so that open streams never delay other routes
        self._streams = QueueClient(settings, connections=STREAM_CONNECTIONS)
        self._signer = AddressSigner(settings, self.queue, self.clock)
        self.listener = EventListener(settings, self._streams)
        self.streams = SlotLimiter("streams", MAX_STREAMS_PER_CALLER, limit=MAX_STREAMS)
        self.guest_streams = SlotLimiter("streams", MAX_STREAMS_PER_CALLER, limit=MAX_STREAMS // 2)
        self.read_pacer = ReadPacer()
        self.requests = RequestLimiter()
        self.bulks = SlotLimiter("bulks", 1)
        self._verified_keys: set[bytes] = set()
        self.timing = timing or StreamTiming(
            streaming=settings.streaming, buffered_wait=settings.stream_wait_seconds
        )
        self._provided: dict[type[Any], Any] = {}
        #: Event that ends all streams, so that the clients reconnect to the next process.
        self.closing = asyncio.Event()

    @cached_property
    def verifier(self) -> TokenVerifier:
        """Verifier of users' tokens.

        The module of the verifier is imported when the first token arrives.
        """
        from minutehand.web.tokens import TokenVerifier

        return TokenVerifier(self.settings, self.clock)

    async def verify_secret_key(self, secret_key: str) -> None:
        """Reject a secret key that the database does not accept. A valid key is checked only once.

        The project's service has no request limit, so that an invented key must not count as the
        service's key.
        """
        digest = hashlib.sha256(secret_key.encode()).digest()
        if digest not in self._verified_keys:
            async with self.requests.slot("secret keys", MAX_KEY_CHECKS):
                await self.queue.acting_as(secret_key).call("guest_key")
            self._verified_keys.add(digest)

    @asynccontextmanager
    async def request_slot(self, request: Request, caller: Caller | None) -> AsyncIterator[None]:
        """Occupy a user's slot.

        A guest occupies one slot of its network and one slot of all guests.
        """
        subject = rate_limit_subject(request.scope, caller)
        is_service = caller is not None and caller.user_id is None
        async with (
            nullcontext() if is_service else self.requests.slot(subject),
            nullcontext() if caller else self.requests.slot("guests", MAX_GUEST_REQUESTS),
        ):
            yield

    @contextmanager
    def stream_slot(self, request: Request, caller: Caller | None) -> Iterator[None]:
        """Occupy a caller's stream slot while a stream, or another long request, stays open."""
        subject = rate_limit_subject(request.scope, caller)
        guest_slot = nullcontext() if caller else self.guest_streams.slot(subject)
        with guest_slot, self.streams.slot(subject):
            yield

    def queue_of(self, caller: Caller | None) -> UserQueue:
        """Return a client with the rights of `caller`.

        If `caller` is None, the client has the rights of an anonymous guest.
        """
        return self.queue.acting_as(token_of(caller), signed=self._signer.headers)

    def stream_queue_of(self, caller: Caller | None) -> UserQueue:
        """Return a client with the rights of `caller`, which uses the connections for streams."""
        return self._streams.acting_as(token_of(caller))

    @cached_property
    def operator_queue(self) -> WorkerQueue:
        """Client of the queue with an operator's rights, for data of all workspaces."""
        try:
            # use the connections of routes, so that the health check finds problems with these
            # connections
            return WorkerQueue(self.settings, api=self.queue, clock=self.clock)
        except ConfigurationError as error:
            raise ApiError(
                503, "not_configured", "This deployment cannot read the queue's health"
            ) from error

    def provide(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the process's only instance of `kind`. The first call builds the instance.

        If the instance has `aclose`, the instance is closed together with the services. On Lambda,
        services are closed when secrets are rotated, because the lifespan of an app never ends on
        Lambda.
        """
        if kind not in self._provided:
            self._provided[kind] = make()
        instance: T = self._provided[kind]
        return instance

    async def aclose(self) -> None:
        """End all streams and close all connections."""
        self.closing.set()
        for instance in self._provided.values():
            if hasattr(instance, "aclose"):
                await instance.aclose()
        await self._streams.aclose()
        await self.queue.aclose()


def services_of(request: Request) -> Services:
    """Return the services of the app that serves this request."""
    services: Services = request.app.state.services
    return services


async def _services_of(request: Request) -> Services:
    """Return the services.

    The function is async, because FastAPI runs a function that is not async in a thread.
    """
    return services_of(request)


#: The services of the process, as an argument of a route.
Provided = Annotated[Services, Depends(_services_of)]
