"""What routes work with, made once per process and found as `request.app.state.services`.

Which waker a process has is decided by `functions/` or the local stack.
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
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar

from fastapi import Depends, Request

from minutehand.clock import Clock, SystemClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.client import QueueClient, UserQueue
from minutehand.queue.data_api import STREAM_CONNECTIONS
from minutehand.queue.worker_client import WorkerQueue
from minutehand.web.caller import Caller, holder_of, token_of
from minutehand.web.errors import RETRY_AFTER_SECONDS, ApiError, unavailable
from minutehand.web.listener import News

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


@dataclass(frozen=True)
class Pace:
    """How an event stream behaves in time; seconds throughout."""

    #: Keep the response open, or answer with what is there and let the client come back.
    streaming: bool
    #: Longest wait for a first event in a buffered answer. With `read_timeout` on top it must stay
    #: below the function's 28 s and the gateway's 30 s.
    buffered_wait: float = 20.0
    #: Longest wait for one read of the log; then it is repeated.
    read_timeout: float = 5.0
    #: Between comments that keep proxies from closing an idle stream.
    keep_alive: float = 15.0
    #: Between reads of the log after news; while there is none it grows to `most_poll`.
    poll: float = 0.2
    most_poll: float = 1.0
    #: The same while the database notifies: for what no event says, as the end of a membership.
    most_look: float = 10.0
    #: A reader that takes no data for so long is let go.
    stalled_after: float = 30.0
    #: What a client waits before it comes back.
    retry: float = 2.0


#: Streams of a process, of which guests hold half, and of one caller.
MAX_STREAMS: Final = 5_000
MAX_STREAMS_OF_CALLER: Final = 100
#: Requests of one caller that run, a share of the connections to the database, and of all guests;
#: and of a caller that wait.
MAX_REQUESTS_OF_CALLER: Final = 4
MAX_REQUESTS_OF_GUESTS: Final = 8
#: Secret keys that the database is asked about at once: anyone can make them up.
MAX_KEYS_ASKED: Final = 2
MAX_WAITING_OF_CALLER: Final = 200


def _too_many(what: str) -> ApiError:
    return ApiError(
        429,
        "rate_limited",
        f"Too many {what} at once; try again in {RETRY_AFTER_SECONDS} s",
        detail={"limit": what, "retry_after_seconds": RETRY_AFTER_SECONDS},
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class Requests:
    """Requests: some of each caller run, the others wait before any takes a connection."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Semaphore] = {}
        self._under_way: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, caller: str, most: int = MAX_REQUESTS_OF_CALLER) -> AsyncIterator[None]:
        """Wait for a turn of the caller's, and hold it."""
        if self._under_way[caller] >= most + MAX_WAITING_OF_CALLER:
            raise _too_many("requests")
        running = self._running.setdefault(caller, asyncio.Semaphore(most))
        self._under_way[caller] += 1
        try:
            async with running:
                yield
        finally:
            self._under_way[caller] -= 1
            if not self._under_way[caller]:
                del self._under_way[caller], self._running[caller]


#: Reads of the log a second, over all streams of the process; and how many may come at once.
READS_PER_SECOND: Final = 200.0
READS_AT_ONCE: Final = 40


class Places:
    """Places that callers hold; another one is refused. `count` is the number of all.

    Args:
        what: The plural that a refusal names.
        of_caller: Most places of one caller.
        most: Most places of all callers.
    """

    def __init__(self, what: str, of_caller: int, *, most: float = math.inf) -> None:
        self.count = 0
        self._what = what
        self._of_caller = of_caller
        self._most = most
        self._of: Counter[str] = Counter()

    @contextmanager
    def held(self, caller: str) -> Iterator[None]:
        """Hold a place of a caller until the block ends."""
        if self.count >= self._most:
            raise unavailable(f"This server has no capacity for more {self._what}")
        if self._of[caller] >= self._of_caller:
            raise _too_many(self._what)
        self.count += 1
        self._of[caller] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]


class Reads:
    """Paces the reads of all streams: they share a budget, and each gets its turn."""

    def __init__(self) -> None:
        self._read_at = 0.0

    def seconds_left(self) -> float:
        """Seconds until a stream may read its log."""
        now = time.monotonic()
        self._read_at = max(self._read_at, now - READS_AT_ONCE / READS_PER_SECOND)
        self._read_at += 1 / READS_PER_SECOND
        return max(0.0, self._read_at - now)


class Services:
    """Clients and dependencies of one process; nothing is connected before it is needed."""

    def __init__(
        self,
        settings: Settings,
        *,
        waker: Waker | None = None,
        clock: Clock | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.settings = settings
        self.waker: Waker = waker or NoWaker()
        self.clock: Clock = clock or SystemClock()
        self.queue = QueueClient(settings)
        # streams read through connections of their own: however many are open, a route gets one
        self._streams = QueueClient(settings, connections=STREAM_CONNECTIONS)
        self.news = News(settings, self._streams)
        self.streams = Places("streams", MAX_STREAMS_OF_CALLER, most=MAX_STREAMS)
        self.guest_streams = Places("streams", MAX_STREAMS_OF_CALLER, most=MAX_STREAMS // 2)
        self.reads = Reads()
        self.requests = Requests()
        self.bulks = Places("bulks", 1)
        self._known_keys: set[bytes] = set()
        self.pace = pace or Pace(
            streaming=settings.streaming, buffered_wait=settings.stream_wait_seconds
        )
        self._provided: dict[type[Any], Any] = {}
        #: Set to let every stream end soon; its client comes back to the process that serves next.
        self.closing = asyncio.Event()

    @cached_property
    def verifier(self) -> TokenVerifier:
        """Verifies users' tokens; imported with the first of them."""
        from minutehand.web.tokens import TokenVerifier

        return TokenVerifier(self.settings, self.clock)

    async def know(self, secret_key: str) -> None:
        """Refuse a secret key that the database does not take; it is asked once for each.

        The project's own service takes no turns, and a made-up key must not pass for it.
        """
        name = hashlib.sha256(secret_key.encode()).digest()
        if name not in self._known_keys:
            async with self.requests.turn("secret keys", MAX_KEYS_ASKED):
                await self.queue.acting_as(secret_key).call("guest_key")
            self._known_keys.add(name)

    @asynccontextmanager
    async def turn(self, request: Request, caller: Caller | None) -> AsyncIterator[None]:
        """Hold a turn of the request's user; of a guest's network, then of all guests'."""
        holder = holder_of(request.scope, caller)
        is_service = caller is not None and caller.user_id is None
        async with (
            nullcontext() if is_service else self.requests.turn(holder),
            nullcontext() if caller else self.requests.turn("guests", MAX_REQUESTS_OF_GUESTS),
        ):
            yield

    @contextmanager
    def waiting(self, request: Request, caller: Caller | None) -> Iterator[None]:
        """Count a stream, or another request that waits, until it ends."""
        holder = holder_of(request.scope, caller)
        of_guests = nullcontext() if caller else self.guest_streams.held(holder)
        with of_guests, self.streams.held(holder):
            yield

    def queue_of(self, caller: Caller | None) -> UserQueue:
        """The queue as `caller` sees it; as an anonymous guest sees it for None."""
        return self.queue.acting_as(token_of(caller))

    def stream_queue_of(self, caller: Caller | None) -> UserQueue:
        """The queue as `caller` sees it, for reads that a stream makes while it is open."""
        return self._streams.acting_as(token_of(caller))

    @cached_property
    def operator_queue(self) -> WorkerQueue:
        """The queue as its operator sees it: health and statistics over all workspaces."""
        try:
            # through the routes' own connections: what keeps them from answering must show
            return WorkerQueue(self.settings, api=self.queue, clock=self.clock)
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
        self.closing.set()
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
