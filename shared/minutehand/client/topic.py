"""One private Realtime topic kept joined: cut, refused or silent, it is joined again."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from websockets.exceptions import WebSocketException

from minutehand.client.access import Access
from minutehand.queue.errors import QueueError
from minutehand.queue.models import TopicFollowed
from minutehand.queue.realtime import READY, events_of_message
from minutehand.tasks import first_of

logger = logging.getLogger(__name__)
# what the library calls errors is said here, where it is known whether one matters
logging.getLogger("realtime").setLevel(logging.CRITICAL)

_REOPEN_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Between two calls of `follow_topic` when the last was not answered.
_FOLLOW_SECONDS: Final = 60.0
#: Between two looks whether the socket is still open.
_LOOK_SECONDS: Final = 0.5
_PRIVATE: Final[Any] = {
    "config": {
        "private": True,
        "broadcast": {"ack": False, "self": False, "replication_ready": True},
        "presence": {"enabled": False, "key": ""},
    }
}


@dataclass
class Topic:
    """Joins `name` and stays; `run` ends only by cancellation."""

    access: Access
    name: str
    _: KW_ONLY
    timeout: float
    joined: Callable[[TopicFollowed | None], None]
    ready: Callable[[], None]
    lost: Callable[[str], None]
    message: Callable[[object], None]
    _restart: asyncio.Event = field(default_factory=asyncio.Event)
    _failures: int = 0
    _follower_id: UUID = field(default_factory=uuid4)
    _terms: TopicFollowed | None = None

    def reconnect(self) -> None:
        """Join over another socket, now: the present one delivers nothing, or the world is back."""
        self._failures = 0
        self._restart.set()

    async def run(self) -> None:
        """Stay joined until cancelled."""
        while True:
            self._restart.clear()
            try:
                reason = await self._stay_joined()
            except (QueueError, OSError, TimeoutError, WebSocketException) as error:
                reason = f"{type(error).__name__} {error}".strip()
            logger.info("a topic is lost", extra={"event": "watch.lost", "reason": reason})
            self.lost(reason)
            wait = _REOPEN_SECONDS[min(self._failures, len(_REOPEN_SECONDS) - 1)]
            self._failures += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(wait * (0.75 + random.random() / 2)):
                    await self._restart.wait()

    async def _stay_joined(self) -> str:
        access = self.access
        seconds = math.ceil(self.timeout)
        socket = AsyncRealtimeClient(
            access.realtime_url, access.key, auto_reconnect=False, timeout=seconds
        )
        socket.access_token = await access.tokens.get()
        again_seconds = await self._follow()
        channel = socket.channel(self.name, _PRIVATE)
        channel.on_broadcast("*", self._on_broadcast)
        channel.on_system(lambda said: self.ready() if said.message == READY else None)
        broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def receive(state: str, error: Exception | None) -> None:
            if state == "SUBSCRIBED":
                self._failures = 0
                self.joined(self._terms)
            elif not broken.done():
                broken.set_result(f"{state} {error or ''}".strip())

        try:
            await socket.connect()
            await channel.subscribe(receive)
            return str(
                await first_of(
                    broken,
                    _closed(socket),
                    self._push_tokens(channel),
                    self._keep_following(again_seconds),
                    self._restarted(),
                )
            )
        finally:
            channel.rejoin_timer.reset()
            channel.join_push.destroy()
            await socket.close()

    def _on_broadcast(self, message: Mapping[str, Any]) -> None:
        for event in events_of_message(message["payload"]):
            self.message(event)

    async def _follow(self) -> float:
        """Say that this client listens; returns the seconds until it is to be said again."""
        try:
            async with asyncio.timeout(self.timeout):
                self._terms = await self.access.reader.follow_topic(self.name, self._follower_id)
        except (QueueError, TimeoutError) as error:
            # the join's answer says whether the topic may be followed
            logger.debug(
                "not counted as a follower",
                extra={"event": "watch.uncounted", "reason": f"{type(error).__name__} {error}"},
            )
            return _FOLLOW_SECONDS
        return self._terms.again_seconds

    async def _keep_following(self, again_seconds: float) -> str:
        while True:
            await asyncio.sleep(again_seconds)
            again_seconds = await self._follow()

    async def _push_tokens(self, channel: AsyncRealtimeChannel) -> str:
        tokens = self.access.tokens
        while tokens.can_renew:
            await asyncio.sleep(tokens.seconds_left)
            if (token := await tokens.get()) is not None:
                await channel.push("access_token", {"access_token": token})
        await asyncio.Event().wait()  # nothing to push: leave it to the others to notice an end
        return ""

    async def _restarted(self) -> str:
        await self._restart.wait()
        return "silent"


async def _closed(socket: AsyncRealtimeClient) -> str:
    while socket.is_connected:  # noqa: ASYNC110 - the library has no event for it
        await asyncio.sleep(_LOOK_SECONDS)
    return "closed"
