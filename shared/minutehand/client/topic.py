"""One private Realtime topic kept joined: cut, refused or silent, it is joined again.

What a message means and what may have been missed is left to follower.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from realtime import (
    AsyncRealtimeChannel,
    AsyncRealtimeClient,
    NotConnectedError,
    RealtimeSubscribeStates,
)
from websockets.exceptions import WebSocketException

from minutehand.client.access import Access
from minutehand.queue.broadcasts import events_of_message
from minutehand.queue.errors import QueueError
from minutehand.tasks import end_tasks

logger = logging.getLogger(__name__)

_REOPEN_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_GOODBYE_SECONDS: Final = 1.0
#: Between two calls of `follow_topic` when the last was not answered.
_FOLLOW_SECONDS: Final = 60.0
#: Between two reads of the clock. One this late means that the machine slept: timers do not count
#: that time.
_LOOK_SECONDS: Final = 10.0
_SLEPT_SECONDS: Final = 15.0

#: Sockets whose other end does not answer, until they time out.
_leaving: set[asyncio.Task[None]] = set()


class Topic:
    """Joins `name` and stays; `run` ends only by cancellation.

    Each attempt has a socket and a Realtime client of its own, so nothing half-broken is reused. A
    half-open socket is closed after 40 s by the library's own keepalive, or when a read fails.

    Args:
        timeout: Seconds a connection and a join may take.
    """

    def __init__(
        self,
        access: Access,
        name: str,
        *,
        timeout: float,
        joined: Callable[[bool], None],
        lost: Callable[[str], None],
        message: Callable[[object], None],
    ) -> None:
        self._access = access
        self._name = name
        self._timeout = timeout
        self._joined = joined
        self._lost = lost
        self._message = message
        self._restart = asyncio.Event()
        self._failures = 0
        self._resting = False
        self._follower_id = uuid4()
        self._quiet = False

    def hurry(self) -> None:
        """The world has changed for the better: try again now instead of at a back-off's end."""
        if self._resting:
            self._failures = 0
            self._restart.set()

    def reconnect(self) -> None:
        """Close the present socket: it looks alive but delivers nothing."""
        self._restart.set()

    async def run(self) -> None:
        """Stay joined until cancelled."""
        while True:
            self._restart.clear()
            try:
                reason = await self._guest_session()
            except (
                OSError, TimeoutError, WebSocketException, NotConnectedError, QueueError,
            ) as error:  # fmt: skip
                reason = f"{type(error).__name__} {error}".strip()
            logger.info("a topic is lost", extra={"event": "watch.lost", "reason": reason})
            self._lost(reason)
            wait = _REOPEN_SECONDS[min(self._failures, len(_REOPEN_SECONDS) - 1)]
            self._failures += 1
            self._restart.clear()
            self._resting = True
            with suppress(TimeoutError):
                async with asyncio.timeout(wait * (0.75 + random.random() / 2)):
                    await self._restart.wait()
            self._resting = False

    async def _guest_session(self) -> str:
        """Connect, join and listen until something is wrong; returns what."""
        access = self._access
        token = await access.tokens.get()
        again_seconds = await self._follow()
        client = AsyncRealtimeClient(
            access.realtime_url,
            token=access.key,
            auto_reconnect=False,  # it would give up after some attempts, and join with old tokens
            timeout=max(1, round(self._timeout)),
        )
        tasks: set[asyncio.Future[Any]] = set()
        try:
            await client.connect()
            await client.set_auth(token)
            broken = asyncio.get_running_loop().create_future()
            tasks = {
                broken,
                asyncio.ensure_future(self._listen(client, broken)),
                asyncio.ensure_future(_notice_sleep()),
                asyncio.ensure_future(self._push_tokens(client)),
                asyncio.ensure_future(self._keep_following(again_seconds)),
                asyncio.ensure_future(self._restarted()),
            }
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return str(done.pop().result())
        finally:
            await end_tasks(tasks)
            await _leave(client)

    async def _follow(self) -> float:
        """Say that this client listens; returns the seconds until it is to be said again.

        Each delivery counts as a message of the project's plan, and of a job's followers only
        those who say so are informed of what was held back.
        """
        try:
            async with asyncio.timeout(self._timeout):
                queue = await self._access.user(read_once=True)
                followed = await queue.follow_topic(self._name, self._follower_id)
        except (QueueError, TimeoutError) as error:
            # the join's answer says whether the topic may be followed
            logger.debug(
                "not counted as a follower",
                extra={"event": "watch.uncounted", "reason": f"{type(error).__name__} {error}"},
            )
            return _FOLLOW_SECONDS
        self._quiet = followed.quiet
        return followed.again_seconds

    async def _keep_following(self, again_seconds: float) -> str:
        while True:
            await asyncio.sleep(again_seconds)
            again_seconds = await self._follow()

    async def _listen(self, client: AsyncRealtimeClient, broken: asyncio.Future[str]) -> str:
        def hear(frame: Any) -> None:
            # one message carries all events of a statement for this topic, in order
            for event in events_of_message(frame.get("payload")):
                self._message(event)

        def change(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if broken.done():
                return
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._failures = 0
                self._joined(self._quiet)
            else:
                broken.set_result(f"{state.value} {error or ''}".strip())

        channel: AsyncRealtimeChannel = client.channel(
            self._name,
            {
                "config": {
                    "private": True,
                    "broadcast": {"ack": False, "self": False},
                    "presence": {"key": "", "enabled": False},
                }
            },
        )
        channel.on_broadcast("*", hear)
        await channel.subscribe(change)
        return await broken

    async def _push_tokens(self, client: AsyncRealtimeClient) -> str:
        """Give the socket each new token before the old one expires."""
        tokens = self._access.tokens
        while tokens.can_renew:
            await asyncio.sleep(tokens.seconds_left)
            await client.set_auth(await tokens.get())
        await asyncio.Event().wait()  # nothing to push: leave it to the others to notice an end
        return ""

    async def _restarted(self) -> str:
        await self._restart.wait()
        return "silent"


async def _notice_sleep() -> str:
    """Return when much more time has passed than was slept here."""
    while True:
        before = time.time()
        await asyncio.sleep(_LOOK_SECONDS)
        if time.time() - before > _LOOK_SECONDS + _SLEPT_SECONDS:
            return "the machine slept"


async def _leave(client: AsyncRealtimeClient) -> None:
    """Close the socket; one that does not answer ends by its own timeout."""
    for channel in client.get_channels():
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
    closing = asyncio.create_task(client.close())
    _leaving.add(closing)
    closing.add_done_callback(_leaving.discard)
    await asyncio.wait({closing}, timeout=_GOODBYE_SECONDS)
