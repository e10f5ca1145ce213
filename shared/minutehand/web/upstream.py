"""Realtime as the hub's source: one websocket per process that follows what its streams follow.

Each topic is joined with a reader's own token, so Realtime's policies decide as they do for
browsers. A broken socket loses nothing: streams poll the log until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.broadcasts import READY_SECONDS, events_of_message
from minutehand.queue.errors import QueueError
from minutehand.queue.realtime import Heard, RealtimeLost, RealtimeSocket
from minutehand.tasks import end_tasks, first_of
from minutehand.web.hub import EventHub
from minutehand.web.ring import Frame

logger = logging.getLogger(__name__)

#: Hosted Realtime takes 100 channels on a socket; what is beyond is polled.
MAX_TOPICS: Final = 100
#: An empty socket is kept for the next reader, who often comes soon.
LINGER_SECONDS: Final = 30.0
_RECONNECT_SECONDS: Final = (0.2, 1.0, 2.0, 5.0, 10.0)
#: A refused join is tried again after this, or a quarter more: policy or token may have changed.
_REJOIN_SECONDS: Final = 30.0
#: Between two calls of `follow_topic`; a follower is forgotten after 150 s.
FOLLOW_SECONDS: Final = 60.0
#: Longest wait for one such call.
_FOLLOW_PATIENCE_SECONDS: Final = 5.0

#: Says with a reader's token that this process listens to a topic: `follow_topic`.
FollowTopic = Callable[[str, str | None, UUID], Awaitable[object]]


@dataclass
class _Topic:
    token: str | None
    until: datetime
    joined: bool = False
    #: From when on messages arrive, on the monotonic clock; set once the join is answered.
    live_at: float = math.inf
    retry_at: float = 0.0
    #: When to say again that this process follows it.
    follow_at: float = 0.0
    follower_id: UUID = field(default_factory=uuid4)


class RealtimeUpstream:
    """Follows topics over one websocket.

    Args:
        follow_topic: Counts this process among a topic's followers, to whom it is announced when
            messages were held back; without it a single job's readers are not told.
    """

    def __init__(
        self,
        settings: Settings,
        hub: EventHub,
        clock: Clock,
        *,
        follow_topic: FollowTopic | None = None,
    ) -> None:
        self._url = f"{settings.supabase_url}/realtime/v1"
        self._key = settings.supabase_publishable_key
        self._hub = hub
        self._clock = clock
        self._follow_topic = follow_topic
        self._topics: dict[str, _Topic] = {}
        self._changed = asyncio.Event()
        self._joined = asyncio.Event()
        self._socket: RealtimeSocket | None = None
        self._task: asyncio.Task[None] | None = None

    def follow(self, topic: str, *, token: str | None, until: datetime) -> None:
        """Begin or continue following; of several readers' tokens the one that lives longest."""
        known = self._topics.get(topic)
        if known is None:
            if len(self._topics) >= MAX_TOPICS:
                return
            self._topics[topic] = _Topic(token, until)
        elif until > known.until:
            known.token, known.until, known.retry_at = token, until, 0.0
            if self._socket and known.live_at < math.inf and token is not None:
                self._socket.renew(topic, token)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    def leave(self, topic: str) -> None:
        """Stop following."""
        self._topics.pop(topic, None)
        if self._socket is not None:
            self._socket.leave(topic)
        self._changed.set()

    def is_live(self, topic: str) -> bool:
        """Whether updates of `topic` arrive now."""
        known = self._topics.get(topic)
        return known is not None and known.live_at <= self._clock.monotonic()

    async def aclose(self) -> None:
        """Close the socket."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        failures = 0
        while await self._somebody_follows():
            try:
                async with RealtimeSocket(self._url, self._key, self._hear) as self._socket:
                    failures = 0
                    await first_of(
                        self._socket.serve(),
                        self._keep_joined(self._socket),
                        self._keep_counted(),
                    )
                    continue
            except RealtimeLost as error:
                logger.info(
                    "Realtime is unavailable; streams poll until it is back",
                    extra={"event": "sse.upstream_lost", "reason": str(error)},
                )
            finally:
                self._socket = None
                self._forget_joins()
            wait = _RECONNECT_SECONDS[min(failures, len(_RECONNECT_SECONDS) - 1)]
            failures += 1
            await asyncio.sleep(wait * (0.5 + random.random()))

    async def _somebody_follows(self) -> bool:
        """Whether there is a topic, now or within the time an idle socket is kept."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._topics:
                    self._changed.clear()
                    await self._changed.wait()
        return bool(self._topics)

    async def _keep_joined(self, socket: RealtimeSocket) -> None:
        while await self._somebody_follows():
            self._changed.clear()
            now = self._clock.monotonic()
            for name, topic in self._topics.items():
                expired = topic.until <= self._clock.now()
                if not topic.joined and topic.retry_at <= now and not expired:
                    socket.join(name, topic.token)
                    topic.joined = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REJOIN_SECONDS / 4):
                    await self._changed.wait()

    async def _keep_counted(self) -> None:
        """Say of each joined topic, now and every minute, that this process follows it."""
        if self._follow_topic is None:
            await asyncio.Event().wait()
        while True:
            self._joined.clear()
            now = self._clock.monotonic()
            due = [
                (name, topic)
                for name, topic in self._topics.items()
                if topic.live_at < math.inf and topic.follow_at <= now
            ]
            for name, topic in due:
                topic.follow_at = now + FOLLOW_SECONDS
                await self._count_among_followers(name, topic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_SECONDS / 4):
                    await self._joined.wait()

    async def _count_among_followers(self, name: str, topic: _Topic) -> None:
        assert self._follow_topic is not None
        try:
            async with asyncio.timeout(_FOLLOW_PATIENCE_SECONDS):
                await self._follow_topic(name, topic.token, topic.follower_id)
        except (QueueError, TimeoutError) as error:
            # nothing is lost: the checks of a stream find what is not announced to it
            logger.debug(
                "not counted as a follower",
                extra={"event": "sse.uncounted", "reason": type(error).__name__},
            )

    def _hear(self, name: str, heard: Heard) -> None:
        if (topic := self._topics.get(name)) is None:
            return
        match heard.kind:
            case "ready":
                self._begin(name, topic)
            case "message":
                self._begin(name, topic)
                self._tell(name, heard)
            case "joined":
                topic.live_at = self._clock.monotonic() + READY_SECONDS
                self._joined.set()
            case "refused":
                topic.joined = False
                topic.retry_at = self._clock.monotonic() + _REJOIN_SECONDS
                logger.info(
                    "Realtime refused a topic; its streams poll",
                    extra={"event": "sse.upstream_refused", "reason": heard.payload[:200]},
                )
            case "closed":
                topic.live_at, topic.joined = math.inf, False
                self._changed.set()
                self._hub.notify(name)

    def _tell(self, name: str, heard: Heard) -> None:
        content: Any = heard.payload
        if isinstance(content, dict) and content.get("look_again") is True:
            self._hub.look_again(name)
            return
        events = events_of_message(content)
        for event in events:
            seq, share = event.get("seq"), heard.size // len(events)
            self._hub.notify(name, Frame(seq, event, size=share) if type(seq) is int else None)

    def _begin(self, name: str, topic: _Topic) -> None:
        """What was committed before came over no channel: readers read now."""
        if self._clock.monotonic() < topic.live_at < math.inf:
            topic.live_at = 0.0
            self._hub.notify(name)

    def _forget_joins(self) -> None:
        for name, topic in self._topics.items():
            topic.live_at, topic.joined = math.inf, False
            self._hub.notify(name)
