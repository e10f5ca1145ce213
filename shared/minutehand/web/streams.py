"""How a route of events answers: a page as JSON, or a stream while this process has room for it.

What is read is the feed's, how it is told is minutehand.web.sse's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Final

from fastapi import Request

from minutehand.clock import Clock
from minutehand.queue.models import FeedPage
from minutehand.web.caller import Caller, token_of
from minutehand.web.errors import unavailable
from minutehand.web.feeds import HistoryFeed
from minutehand.web.services import Services
from minutehand.web.sse import MEDIA_TYPE, Batch, EventStream, Feed, Pace, Reader, Stream

#: An app's streams of one process; a client that comes back later may meet another one.
MAX_STREAMS: Final = 2_000
#: Longest wait for a first event in an app's buffered answer: the `jobs` function has 20 s in all.
BUFFERED_SECONDS: Final = 12.0
#: API Gateway's patience with a function.
GATEWAY_SECONDS: Final = 30.0
#: Longer than any guest session: the database ends it, and the stream's checks find that.
LONGEST_GUEST_SESSION: Final = timedelta(days=31)


def asked_at(request: Request, clock: Clock) -> float:
    """When the gateway took the request, on the monotonic clock; now, where no gateway says.

    A gateway's patience begins there, and a cold start may have used seconds of it.
    """
    event = request.scope.get("aws.event") or {}
    epoch_ms = event.get("requestContext", {}).get("timeEpoch")
    age = clock.now().timestamp() - epoch_ms / 1000 if isinstance(epoch_ms, int) else 0.0
    # two machines' clocks: an age that no open request can have says nothing
    return clock.monotonic() - (age if 0 < age < GATEWAY_SECONDS else 0.0)


async def answer_with_events(
    request: Request,
    services: Services,
    caller: Caller | None,
    feed: HistoryFeed,
    *,
    began_at: float,
) -> FeedPage | EventStream:
    """Answer an app's route with a page, or a stream by `Accept: text/event-stream`.

    Args:
        began_at: When the request came, on the monotonic clock.

    Raises:
        ApiError: 503, this process has no room for another stream.
    """
    if MEDIA_TYPE not in request.headers.get("accept", ""):
        return await feed.page()
    await count_opening(services, caller)
    first = await feed.read()
    buffered = min(services.pace.buffered_wait, BUFFERED_SECONDS)
    pace = replace(services.pace, buffered_wait=buffered)
    return open_stream(
        services, caller, feed, first, began_at=began_at, pace=pace, most=MAX_STREAMS
    )


async def count_opening(services: Services, caller: Caller | None) -> None:
    """Count a stream that is about to open, where each holds an invocation while it is open.

    Raises:
        QueueError: 429 `rate_limited`: the caller opens them too fast.
    """
    if caller is not None and not services.pace.streaming:
        await services.queue_of(caller).open_stream()


def open_stream(
    services: Services,
    caller: Caller | None,
    feed: Feed,
    first: Batch,
    *,
    began_at: float,
    pace: Pace,
    most: int,
) -> EventStream:
    """Tell a feed to its reader, from what was read `first`.

    Raises:
        ApiError: 503, this process has `most` streams already; 429, see `stream_response`.
    """
    if services.hub.count >= most:
        raise unavailable("This server has no room for another stream")
    expires_at = caller.expires_at if caller else services.clock.now() + LONGEST_GUEST_SESSION
    reader = Reader(token=token_of(caller), expires_at=expires_at, began_at=began_at)
    stream = Stream(feed, services.hub, reader=reader, pace=pace, clock=services.clock)
    return stream_response(services, caller, feed, stream.chunks(first))


def stream_response(
    services: Services, caller: Caller | None, feed: Feed, chunks: AsyncIterator[bytes]
) -> EventStream:
    """The response that sends a stream, counted as its reader's until it ends.

    Raises:
        ApiError: 429 `rate_limited`: the reader has as many streams open as one may have.
    """
    holder = str(caller.user_id) if caller is not None else feed.topic
    services.limits.hold_stream(holder)
    return EventStream(
        chunks,
        stalled_after=services.pace.stalled_after,
        on_end=lambda: services.limits.release_stream(holder),
    )
