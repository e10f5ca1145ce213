"""One private Realtime topic kept joined: cut, refused or silent, it is joined again.

What a message means and what may have been missed is left to follower.py.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from minutehand.queue.errors import QueueError, QueueUnavailable

if TYPE_CHECKING:
    from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
    from websockets.asyncio.client import ClientConnection

#: A user's token, or a function that gives one which is valid now.
TokenSource = str | Callable[[], str | Awaitable[str]] | None

logger = logging.getLogger(__name__)

_REOPEN_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: A token is replaced this long before it expires, or in the last quarter of a shorter life.
_EARLY_SECONDS: Final = 60.0
#: How long a token is kept that does not say when it expires.
_UNKNOWN_LIFE_SECONDS: Final = 300.0
_GOODBYE_SECONDS: Final = 1.0
#: A heartbeat this late says that the machine slept; timers do not count that time.
_SLEPT_SECONDS: Final = 15.0


class Tokens:
    """The token of one watch, asked for again before it expires."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._token = source if isinstance(source, str) else None
        self._renew_at = 0.0

    @property
    def can_renew(self) -> bool:
        """Whether there is somebody to ask for another."""
        return callable(self._source)

    @property
    def seconds_left(self) -> float:
        """Until the token should be replaced."""
        return max(0.0, self._renew_at - time.time())

    def expire(self) -> None:
        """The token was refused, whatever it says itself: ask for another next time."""
        self._renew_at = 0.0

    async def get(self) -> str | None:
        """A token that is valid as far as it says itself."""
        return await self.renew() if self.can_renew and self.seconds_left == 0 else self._token

    async def renew(self) -> str | None:
        """Ask for another one now.

        Raises:
            QueueUnavailable: The function that gives tokens failed.
        """
        if not callable(self._source):
            return self._token
        try:
            given = self._source()
            token = await given if inspect.isawaitable(given) else given
        except Exception as error:  # a foreign function: whatever it raises, it gave no token
            raise QueueUnavailable(f"no fresh token: {type(error).__name__} {error}") from error
        self._token = token
        life = _seconds_to_live(token)
        # never at once again: a function that gives stale tokens must not be asked in a loop
        self._renew_at = time.time() + max(1.0, life - min(_EARLY_SECONDS, life / 4))
        return token


def _seconds_to_live(token: str) -> float:
    """What the token itself says; nobody is let in for it."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"]) - time.time()
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return _UNKNOWN_LIFE_SECONDS


class Topic:
    """Joins `name` and stays; `run` ends only by cancellation.

    Each attempt has a socket and a Supabase client of its own, so nothing half-broken is reused.

    Args:
        heartbeat: Seconds between proofs that the connection lives. It is given up when none
            comes in the same time again.
        patience: Seconds a connection and a join may take.
    """

    def __init__(
        self,
        supabase_url: str,
        key: str,
        tokens: Tokens,
        name: str,
        *,
        heartbeat: float,
        patience: float,
        joined: Callable[[], None],
        lost: Callable[[str], None],
        message: Callable[[object], None],
    ) -> None:
        self._url = f"{supabase_url.rstrip('/')}/realtime/v1"
        self._key = key
        self._tokens = tokens
        self._name = name
        self._heartbeat = heartbeat
        self._patience = patience
        self._joined = joined
        self._lost = lost
        self._message = message
        self._restart = asyncio.Event()
        self._failures = 0
        self._resting = False

    def hurry(self) -> None:
        """The world has changed for the better: try again now instead of at a back-off's end."""
        if self._resting:
            self._failures = 0
            self._restart.set()

    def reconnect(self) -> None:
        """Give the present socket up: it looks alive but brings nothing."""
        self._restart.set()

    async def run(self) -> None:
        """Stay joined until cancelled."""
        # here and not at the top: importing minutehand.queue stays cheap
        from realtime import NotConnectedError
        from websockets.exceptions import WebSocketException

        while True:
            self._restart.clear()
            try:
                reason = await self._visit()
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

    async def _visit(self) -> str:
        """Connect, join and listen until something is wrong; returns what."""
        from realtime import AsyncRealtimeClient

        token = await self._tokens.get()
        client = AsyncRealtimeClient(
            self._url,
            token=self._key,
            auto_reconnect=False,  # it would give up after some attempts, and join with old tokens
            timeout=max(1, round(self._patience)),
        )
        tasks: set[asyncio.Future[Any]] = set()
        try:
            await client.connect()
            # the client keeps its socket to itself, but only the socket can prove that it lives
            socket = client._ws_connection
            if socket is None:
                return "closed"
            await client.set_auth(token if token is not None else self._key)
            broken = asyncio.get_running_loop().create_future()
            tasks = {
                broken,
                asyncio.ensure_future(self._listen(client, broken)),
                asyncio.ensure_future(_closed(socket)),
                asyncio.ensure_future(self._prove_life(socket)),
                asyncio.ensure_future(self._push_tokens(client)),
                asyncio.ensure_future(self._restarted()),
            }
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return str(done.pop().result())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _leave(client)

    async def _listen(self, client: AsyncRealtimeClient, broken: asyncio.Future[str]) -> str:
        from realtime import RealtimeSubscribeStates

        def hear(frame: Any) -> None:
            payload = frame.get("payload")
            several = payload.get("events") if isinstance(payload, dict) else None
            for event in several if isinstance(several, list) else [payload]:
                self._message(event)

        def change(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if broken.done():
                return
            if state is RealtimeSubscribeStates.SUBSCRIBED:
                self._failures = 0
                self._joined()
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

    async def _prove_life(self, socket: ClientConnection) -> str:
        """A half-open connection looks alive for ever unless something is expected back."""
        while True:
            before = time.time()
            await asyncio.sleep(self._heartbeat)
            if time.time() - before > self._heartbeat + _SLEPT_SECONDS:
                return "the machine slept"
            try:
                async with asyncio.timeout(self._heartbeat):
                    await (await socket.ping())
            except TimeoutError:
                return "no answer to a heartbeat"

    async def _push_tokens(self, client: AsyncRealtimeClient) -> str:
        """Give the socket each new token before the old one expires."""
        while self._tokens.can_renew:
            await asyncio.sleep(self._tokens.seconds_left)
            await client.set_auth(await self._tokens.get())
        await asyncio.Event().wait()  # nothing to push: leave it to the others to notice an end
        return ""

    async def _restarted(self) -> str:
        await self._restart.wait()
        return "silent"


async def _closed(socket: ClientConnection) -> str:
    await socket.wait_closed()
    return f"closed with {socket.close_code}"


async def _leave(client: AsyncRealtimeClient) -> None:
    """Close the socket; one that does not answer is dropped."""
    for channel in client.get_channels():
        channel.rejoin_timer.reset()
        channel.join_push.destroy()
    socket = client._ws_connection
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await client.close()
    except TimeoutError:
        if socket is not None:
            socket.transport.abort()
