"""Realtime as the hub's source: one websocket per process that follows what its streams follow.

Each topic is joined with a reader's own token, so Realtime's policies decide as they do for
browsers. A broken socket loses nothing: streams poll the log until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.broadcasts import events_of_message
from minutehand.queue.errors import QueueError
from minutehand.queue.foreign import is_local
from minutehand.tasks import end_tasks
from minutehand.web.hub import EventHub
from minutehand.web.ring import Frame

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

logger = logging.getLogger(__name__)

#: Hosted Realtime takes 100 channels on a socket; what is beyond is polled.
MAX_TOPICS: Final = 100
HEARTBEAT_SECONDS: Final = 25.0
#: An empty socket is kept for the next reader, who often comes soon.
LINGER_SECONDS: Final = 30.0
_RECONNECT_SECONDS: Final = (0.2, 1.0, 2.0, 5.0, 10.0)
#: A refused join is tried again after this: the policy or the token may have changed.
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
    ref: str | None = None
    live: bool = False
    retry_at: float = 0.0
    #: When to say again that this process follows it.
    follow_at: float = 0.0
    follower_id: UUID = field(default_factory=uuid4)


class RealtimeUpstream:
    """Follows topics over one websocket, in the first version of the protocol (JSON objects).

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
        parts = urlsplit(settings.supabase_url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        query = urlencode({"apikey": settings.supabase_publishable_key, "vsn": "1.0.0"})
        self._url = f"{scheme}://{parts.netloc}{parts.path}/realtime/v1/websocket?{query}"
        # a proxy of the environment is meant for the world outside
        self._proxy: Literal[True] | None = None if is_local(settings.supabase_url) else True
        self._hub = hub
        self._clock = clock
        self._follow_topic = follow_topic
        self._topics: dict[str, _Topic] = {}
        self._refs = itertools.count(1)
        self._changed = asyncio.Event()
        self._joined = asyncio.Event()
        self._outbox: asyncio.Queue[str] | None = None
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
            if known.live and token is not None:
                self._push(topic, "access_token", {"access_token": token})
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    def leave(self, topic: str) -> None:
        """Stop following."""
        known = self._topics.pop(topic, None)
        if known is not None and known.ref is not None:
            self._push(topic, "phx_leave", {})
        self._changed.set()

    def is_live(self, topic: str) -> bool:
        """Whether updates of `topic` arrive now."""
        known = self._topics.get(topic)
        return known is not None and known.live

    async def aclose(self) -> None:
        """Close the socket."""
        if self._task is not None:
            await end_tasks([self._task])

    async def _run(self) -> None:
        # here and not at the top: only a host that streams needs it
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        failures = 0
        while await self._somebody_follows():
            try:
                async with connect(
                    self._url,
                    proxy=self._proxy,
                    open_timeout=10,
                    close_timeout=1,
                    ping_interval=None,
                    max_size=2**22,
                ) as socket:
                    failures = 0
                    await self._serve(socket)
                    continue
            except (OSError, TimeoutError, WebSocketException) as error:
                logger.info(
                    "Realtime is unavailable; streams poll until it is back",
                    extra={"event": "sse.upstream_lost", "reason": type(error).__name__},
                )
            finally:
                self._outbox = None
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

    async def _serve(self, socket: ClientConnection) -> None:
        """Read, write, beat and join until no one follows anything or the socket breaks."""
        self._outbox = asyncio.Queue()
        tasks = {
            asyncio.ensure_future(work)
            for work in (
                self._read(socket),
                self._write(socket, self._outbox),
                self._beat(self._outbox),
                self._keep_joined(),
                self._keep_counted(),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(tasks)
        for task in done:
            task.result()

    async def _keep_joined(self) -> None:
        while await self._somebody_follows():
            self._changed.clear()
            now = self._clock.monotonic()
            for name, topic in self._topics.items():
                expired = topic.until <= self._clock.now()
                if topic.ref is None and topic.retry_at <= now and not expired:
                    self._join(name, topic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REJOIN_SECONDS):
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
                if topic.live and topic.follow_at <= now
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

    def _join(self, name: str, topic: _Topic) -> None:
        config = {
            "private": True,
            "broadcast": {"ack": False, "self": False},
            "presence": {"enabled": False, "key": ""},
            "postgres_changes": [],
        }
        join: dict[str, Any] = {"config": config}
        if topic.token is not None:  # else the socket's publishable key decides
            join["access_token"] = topic.token
        topic.ref = self._push(name, "phx_join", join)

    async def _beat(self, outbox: asyncio.Queue[str]) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            outbox.put_nowait(_frame("phoenix", "heartbeat", {}, str(next(self._refs))))

    async def _write(self, socket: ClientConnection, outbox: asyncio.Queue[str]) -> None:
        while True:
            await socket.send(await outbox.get())

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            message = json.loads(text)
            name = str(message.get("topic", "")).removeprefix("realtime:")
            topic = self._topics.get(name)
            if topic is not None:
                self._hear(name, topic, message, size=len(text))
        # ending the iteration without an error is a close in good order: also a loss
        raise ConnectionResetError("Realtime closed the socket")

    def _hear(self, name: str, topic: _Topic, message: dict[str, Any], *, size: int) -> None:
        event, payload, ref = message["event"], message.get("payload") or {}, message.get("ref")
        if event == "broadcast":
            content = payload.get("payload")
            if isinstance(content, dict) and content.get("look_again") is True:
                self._hub.look_again(name)
                return
            events = events_of_message(content)
            for content in events:
                seq = content.get("seq")
                share = size // len(events)
                self._hub.notify(
                    name, Frame(seq, content, size=share) if type(seq) is int else None
                )
        elif event == "phx_reply" and ref == topic.ref:
            topic.live = payload.get("status") == "ok"
            if topic.live:
                self._joined.set()
                # what was committed before the join came over no channel: readers read now
                self._hub.notify(name)
            else:
                topic.ref = None
                topic.retry_at = self._clock.monotonic() + _REJOIN_SECONDS
                logger.info(
                    "Realtime refused a topic; its streams poll",
                    extra={
                        "event": "sse.upstream_refused",
                        "reason": str(payload.get("response"))[:200],
                    },
                )
        elif event in {"phx_close", "phx_error"} and ref in {topic.ref, None}:
            topic.live, topic.ref = False, None
            self._changed.set()
            self._hub.notify(name)

    def _forget_joins(self) -> None:
        for name, topic in self._topics.items():
            topic.live, topic.ref = False, None
            self._hub.notify(name)

    def _push(self, topic: str, event: str, payload: dict[str, Any]) -> str | None:
        """Queue a frame and return its ref; None while there is no socket."""
        if self._outbox is None:
            return None
        ref = str(next(self._refs))
        self._outbox.put_nowait(_frame(f"realtime:{topic}", event, payload, ref))
        return ref


def _frame(topic: str, event: str, payload: dict[str, Any], ref: str) -> str:
    return json.dumps(
        {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": None}
    )
