"""One private Realtime topic kept joined: cut, refused or silent, it is joined again.

What a message means and what may have been missed is left to follow.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

from minutehand.client.access import Access
from minutehand.queue.errors import QueueError
from minutehand.queue.models import TopicFollowed
from minutehand.queue.realtime import Heard, RealtimeLost, RealtimeSocket, events_of_message
from minutehand.tasks import first_of

logger = logging.getLogger(__name__)

_REOPEN_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Between two calls of `follow_topic` when the last was not answered.
_FOLLOW_SECONDS: Final = 60.0


class Topic:
    """Joins `name` and stays; `run` ends only by cancellation.

    Each attempt has a socket of its own, so nothing half-broken is reused. A half-open one is
    closed after 40 s, or when a read fails.

    Args:
        timeout: Seconds a connection and a join may take.
        joined: Called after each join with the answer of `follow_topic`, if any; what is sent may
            still be lost.
        ready: Called when messages arrive from now on; older servers never say so.
        message: Called with each event of a message, in order.
    """

    def __init__(
        self,
        access: Access,
        name: str,
        *,
        timeout: float,
        joined: Callable[[TopicFollowed | None], None],
        ready: Callable[[], None],
        lost: Callable[[str], None],
        message: Callable[[object], None],
    ) -> None:
        self._access = access
        self._name = name
        self._timeout = timeout
        self._joined = joined
        self._ready = ready
        self._lost = lost
        self._message = message
        self._restart = asyncio.Event()
        self._failures = 0
        self._follower_id = uuid4()
        self._terms: TopicFollowed | None = None

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
            except RealtimeLost as error:
                reason = str(error)
            except QueueError as error:
                reason = f"{type(error).__name__} {error}".strip()
            logger.info("a topic is lost", extra={"event": "watch.lost", "reason": reason})
            self._lost(reason)
            wait = _REOPEN_SECONDS[min(self._failures, len(_REOPEN_SECONDS) - 1)]
            self._failures += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(wait * (0.75 + random.random() / 2)):
                    await self._restart.wait()

    async def _stay_joined(self) -> str:
        """Connect, join and listen until something is wrong; returns what."""
        access = self._access
        token = await access.tokens.get()
        again_seconds = await self._follow()
        broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def hear(_: str, heard: Heard) -> None:
            match heard.kind:
                case "message":
                    for event in events_of_message(heard.payload):
                        self._message(event)
                case "ready":
                    self._ready()
                case "joined":
                    self._failures = 0
                    self._joined(self._terms)
                case _ if not broken.done():
                    broken.set_result(f"{heard.kind} {heard.payload or ''}".strip())

        async with RealtimeSocket(
            access.realtime_url, access.key, hear, open_seconds=self._timeout
        ) as socket:
            socket.join(self._name, token)
            return str(
                await first_of(
                    socket.serve(),
                    broken,
                    self._push_tokens(socket),
                    self._keep_following(again_seconds),
                    self._restarted(),
                )
            )

    async def _follow(self) -> float:
        """Say that this client listens; returns the seconds until it is to be said again.

        Each delivery counts as a message of the project's plan, and of a job's followers only
        those who say so are informed of what was held back.
        """
        try:
            async with asyncio.timeout(self._timeout):
                queue = await self._access.user(read_once=True)
                self._terms = await queue.follow_topic(self._name, self._follower_id)
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

    async def _push_tokens(self, socket: RealtimeSocket) -> str:
        """Give the socket each new token before the old one expires."""
        tokens = self._access.tokens
        while tokens.can_renew:
            await asyncio.sleep(tokens.seconds_left)
            if (token := await tokens.get()) is not None:
                socket.renew(self._name, token)
        await asyncio.Event().wait()  # nothing to push: leave it to the others to notice an end
        return ""

    async def _restarted(self) -> str:
        await self._restart.wait()
        return "silent"
