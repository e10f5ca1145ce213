"""One joined topic on one socket: its rights, its token, what it sends and what it receives.

How a channel comes to be is in `session`; how one message reaches many channels in `broadcast`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from supabase_local.realtime.database import DatabaseUnavailable
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.join import JoinRefused, JoinRequest
from supabase_local.realtime.member import PREFIX, Socket
from supabase_local.realtime.serializer import (
    JSON,
    Fanout,
    Inbound,
    UserBroadcast,
    Version,
    dump,
    encode,
    load,
    reply,
)
from supabase_local.realtime.tokens import Token, TokenError, redacted

logger = logging.getLogger(__name__)


def no_read(topic: str) -> str:
    """What someone without the right to read a topic gets."""
    return f"You do not have permissions to read from this Channel topic: {topic}"


class Channel:
    """A joined topic. Its socket's session calls `handle` with one message at a time."""

    def __init__(
        self, session: Socket, hub: Hub, topic: str, join_ref: str | None, request: JoinRequest
    ) -> None:
        self.session = session
        self.hub = hub
        self.topic = topic
        self.full_topic = PREFIX + topic
        self.join_ref = join_ref
        self.request = request
        self.private = request.private
        self.version: Version = session.version
        self.send_frame = session.send
        self.token: Token
        self.closed = False
        self._may_write: bool | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._refreshed_at = 0.0

    # ------------------------------------------------------------------------------ join

    async def authorize(self, text: str | None) -> None:
        """Verify the join's token and, on a private topic, the right to read.

        Raises:
            JoinRefused: With the protocol's reason.
        """
        try:
            if text is None or text.startswith("sb_"):
                self.token = self.session.token
                self.token.check_expiry()
            else:
                self.token = self.hub.verifier.verify(text)
        except TokenError as error:
            raise JoinRefused(f"{error.code}: {error.message}") from error
        self.hub.check_database(private=self.private)
        if not self.private:
            return
        try:
            may_read = await self._may_read(self.token)
        except DatabaseUnavailable as error:
            raise JoinRefused(error.reason) from error
        if not may_read:
            raise JoinRefused(f"Unauthorized: {no_read(self.topic)}")

    async def _may_read(self, token: Token) -> bool:
        return await self.hub.authorizer.read(token, self.topic, self.session.headers)

    def joined(self) -> None:
        """Tell the client what follows the join's reply, and start the token's clock."""
        if self.request.replication_ready:
            self.hub.spawn(self._report_replication())
        self._watch_token()

    async def _report_replication(self) -> None:
        try:
            async with asyncio.timeout(self.hub.limits.replication_timeout_seconds):
                await self.hub.messages.running.wait()
        except TimeoutError:
            self.shut_down("Replication connection was not established in time")
        else:
            if not self.closed:
                self.push_system("system", "ok", "Replication connection established")

    # --------------------------------------------------------------------------- pushing

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send a `system` frame."""
        payload = {
            "extension": extension,
            "status": status,
            "message": message,
            "channel": self.topic,
        }
        self._push("system", payload)

    def _push(self, event: str, payload: Any) -> None:
        self.send_frame(
            encode(self.version, self.join_ref, None, self.full_topic, event, dump(payload))
        )

    def _reply(self, ref: str | None, response: Any, status: str = "ok") -> None:
        self.send_frame(reply(self.version, self.join_ref, ref, self.full_topic, response, status))

    # --------------------------------------------------------------------------- closing

    def close(self) -> None:
        """Leave every room and forget every subscription; sends nothing to this client."""
        if self.closed:
            return
        self.closed = True
        for timer in (self._timer, self._refresh_timer):
            if timer is not None:
                timer.cancel()
        self.hub.rooms.leave(self)
        self.hub.changes.unsubscribe(self)

    def close_and_notify(self) -> None:
        """End the channel with a `phx_close`; clients match its ref with their join's."""
        self._end_with("phx_close")

    def crash(self) -> None:
        """End the channel with a `phx_error`, after which clients join again."""
        self._end_with("phx_error")

    def _end_with(self, event: str) -> None:
        self.close()
        self.send_frame(
            encode(self.version, self.join_ref, self.join_ref, self.full_topic, event, "{}")
        )

    def shut_down(self, reason: str) -> None:
        """End the channel for a reason: a `system` error, then `phx_close`."""
        if self.closed:
            return
        logger.info(
            "channel shut down",
            extra={
                "event": "realtime.channel_shutdown",
                "topic": redacted(self.topic),
                "reason": redacted(reason),
            },
        )
        self.push_system("system", "error", reason)
        self.session.forget(self)
        self.close_and_notify()

    # ------------------------------------------------------------------------- messages

    async def handle(self, message: Inbound) -> None:
        """Handle one message for this topic."""
        if message.event == "broadcast":
            await self._on_broadcast(message)
        elif message.event == "access_token":
            await self._on_access_token(message.payload)
        else:
            logger.warning(
                "unknown event dropped",
                extra={
                    "event": "realtime.unknown_event",
                    "topic": redacted(self.topic),
                    "name_of_event": message.event[:100],
                },
            )

    async def _on_broadcast(self, message: Inbound) -> None:
        hub = self.hub
        if message.size > hub.limits.payload_bytes and _too_large(
            message, hub.limits.payload_bytes
        ):
            if self.request.ack:
                self._reply(message.ref, "payload_size_exceeded", "error")
            return
        if self.private and not await self._writes():
            return
        fanout = self._fanout_of(message)
        exclude = None if self.request.self_broadcast else self
        hub.rooms.deliver(self.topic, self.private, fanout, exclude=exclude)
        if self.request.ack:
            self._reply(message.ref, {})

    def _fanout_of(self, message: Inbound) -> Fanout:
        if message.user_event is None:
            return Fanout(self.full_topic, "broadcast", dump(message.payload))
        if message.encoding == JSON:
            load(message.payload)  # raises MalformedFrame: no one could read it
        return UserBroadcast(
            self.full_topic, message.user_event, message.payload, encoding=message.encoding
        )

    async def _writes(self) -> bool:
        if self._may_write is None:
            try:
                self._may_write = await self.hub.authorizer.write(
                    self.token, self.topic, self.session.headers
                )
            except DatabaseUnavailable:
                return False  # not remembered: the database may be back for the next push
        return self._may_write

    # --------------------------------------------------------------------------- tokens

    async def _on_access_token(self, payload: Any) -> None:
        text = payload.get("access_token") if isinstance(payload, dict) else None
        if not isinstance(text, str) or text.startswith("sb_") or text == self.token.text:
            return
        window = self.hub.limits.token_refresh_window_seconds
        wait = self._refreshed_at + window - time.monotonic()
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
            self._refresh_timer = None
        if self._refreshed_at and wait > 0:
            loop = asyncio.get_running_loop()
            self._refresh_timer = loop.call_later(wait, lambda: self.hub.spawn(self._refresh(text)))
            return
        await self._refresh(text)

    async def _refresh(self, text: str) -> None:
        self._refreshed_at = time.monotonic()
        try:
            token = self.hub.verifier.verify(text)
        except TokenError as error:
            self.shut_down(error.at_refresh)
            return
        if self.private:
            try:
                may_read = await self._may_read(token)
            except DatabaseUnavailable as error:
                self.shut_down(error.reason.partition(": ")[2])
                return
            if not may_read:
                self.shut_down(no_read(self.topic))
                return
        if self.closed:
            return
        self.token = token
        self._may_write = None
        self._watch_token()
        if self.request.changes:
            self.hub.changes.subscribe(self)

    def _watch_token(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.token.expires_at is None or self.closed:
            return
        # a little late rather than a little early: the token must really be over
        left = self.token.expires_at - time.time() + 0.02
        delay = min(max(left, 0), self.hub.limits.token_check_seconds)
        self._timer = asyncio.get_running_loop().call_later(delay, self._check_token)

    def _check_token(self) -> None:
        try:
            self.token.check_expiry()
        except TokenError as error:
            self.shut_down(error.message)
            return
        self._watch_token()


def _too_large(message: Inbound, limit: int) -> bool:
    if message.size <= limit:
        return False
    if message.user_event is not None:
        return len(message.payload) > limit
    payload = message.payload
    inner = payload.get("payload") if isinstance(payload, dict) else payload
    return len(json.dumps(inner, ensure_ascii=False, separators=(",", ":")).encode()) > limit
