"""A websocket and the topics that it has joined, with their rights, tokens and messages."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed

from supabase_local.realtime.authorization import may_read, may_write
from supabase_local.realtime.broadcast import PREFIX
from supabase_local.realtime.database import UNREACHABLE, DatabaseUnavailable
from supabase_local.realtime.filters import change_id
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.serializer import (
    Inbound,
    MalformedFrame,
    Version,
    decode,
    dump,
    encode,
)
from supabase_local.realtime.tokens import Token, TokenError

logger = logging.getLogger(__name__)

#: Maximum unsent bytes of a socket. A client that reads more slowly is disconnected.
BUFFER_BYTES = 64_000_000
#: Maximum seconds between two checks of the token of a channel.
TOKEN_SECONDS = 300


class JoinRefused(Exception):
    """A join is rejected. The message is the reason in the reply."""


class Session:
    """The Phoenix protocol on one socket."""

    def __init__(self, hub: Hub, socket: ServerConnection, version: Version, token: Token) -> None:
        self.hub = hub
        self.version = version
        self.token = token
        self._socket = socket
        self._channels: dict[str, Channel] = {}

    def send(self, data: str | bytes) -> None:
        """Write to the socket without waiting. If the buffer is full, disconnect the client."""
        broadcast([self._socket], data)
        if self._socket.transport.get_write_buffer_size() > BUFFER_BYTES:
            logger.warning("slow reader disconnected", extra={"event": "realtime.slow_consumer"})
            self._socket.transport.abort()

    def reply(self, message: Inbound, response: Any, status: str = "ok") -> None:
        """Send the `phx_reply` to a message of the client."""
        payload = dump({"status": status, "response": response})
        to = (message.join_ref, message.ref, message.topic)
        self.send(encode(self.version, *to, "phx_reply", payload))

    async def run(self) -> None:
        """Handle the messages of the client until the socket closes.

        An error in one message does not affect other messages.
        """
        try:
            async for data in self._socket:
                try:
                    await self._dispatch(decode(self.version, data))
                except MalformedFrame as error:
                    logger.warning(
                        "malformed message dropped",
                        extra={"event": "realtime.malformed_message", "reason": str(error)[:300]},
                    )
                except Exception:
                    logger.exception("message failed", extra={"event": "realtime.message_failed"})
        except ConnectionClosed:
            pass  # the client has closed the socket without a close frame
        finally:
            for channel in self._channels.values():
                channel.close()

    async def _dispatch(self, message: Inbound) -> None:
        topic, event = message.topic, message.event
        channel = self._channels.get(topic) if isinstance(topic, str) else None
        if topic == "phoenix":
            self.reply(message, {})
        elif event == "phx_join" and str(topic).startswith(PREFIX):
            await self._join(message)
        elif event == "phx_leave":
            self.reply(message, {})
            if channel is not None:
                self.end(channel)
        elif channel is None:
            self.reply(message, {"reason": "unmatched topic"}, "error")
        elif event == "broadcast":
            await channel.on_broadcast(message)
        elif event == "access_token":
            await channel.on_access_token(message.payload)

    async def _join(self, message: Inbound) -> None:
        old = self._channels.pop(message.topic, None)
        if old is not None:
            old.close()
        await self._answer(message)
        if old is not None:  # end the old join after the reply to the new join, as Phoenix does
            old.push("phx_close", {}, ref=old.join_ref)

    async def _answer(self, message: Inbound) -> None:
        channel = Channel(self, message)
        try:
            await channel.authorize()
        except (JoinRefused, DatabaseUnavailable, TokenError) as refused:
            logger.info(
                "join refused",
                extra={"event": "realtime.join_refused", "reason": str(refused)[:300]},
            )
            self.reply(message, {"reason": str(refused)}, "error")
            return
        self._channels[message.topic] = channel
        self.hub.members.enter(channel)
        entries = [{**entry, "id": change_id(entry)} for entry in channel.changes]
        self.reply(message, {"postgres_changes": entries})
        channel.joined()

    def end(self, channel: Channel) -> None:
        """End a channel by a `phx_close`, whose ref must be the ref of the client's join."""
        channel.close()
        self._channels.pop(channel.full_topic, None)
        channel.push("phx_close", {}, ref=channel.join_ref)


class Channel:
    """A topic that the socket has joined."""

    def __init__(self, session: Session, message: Inbound) -> None:
        payload = message.payload if isinstance(message.payload, dict) else {}
        config = payload.get("config") or {}
        options = config.get("broadcast") or {}
        self.session = session
        self.hub = session.hub
        self.version = session.version
        self.send = session.send
        self.full_topic = message.topic
        self.topic = message.topic.removeprefix(PREFIX)
        # if join_ref is null, use the ref of the message instead, as Phoenix does
        self.join_ref = message.join_ref or message.ref
        self.private = config.get("private") is True
        self.ack = options.get("ack") is True
        self.receives_own = options.get("self") is True
        self.replication_ready = options.get("replication_ready") is True
        self.changes: list[dict[str, Any]] = config.get("postgres_changes") or []
        self.token = session.token
        self.closed = False
        self._asked = payload.get("user_token") or payload.get("access_token")
        self._may_write: bool | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def authorize(self) -> None:
        """Verify the token of the join, and the token's right to read a private topic.

        Raises an error for which `_answer` rejects the join.
        """
        if isinstance(self._asked, str) and not self._asked.startswith("sb_"):
            self.token = self.hub.verifier.verify(self._asked)
        self.token.check_expiry()
        if self.hub.messages.last_error:  # a join does not wait until replication is running
            raise DatabaseUnavailable(UNREACHABLE)
        if self.private and not await may_read(self.hub.database, self.token, self.topic):
            raise JoinRefused(f"Unauthorized: {self._no_read}")

    @property
    def _no_read(self) -> str:
        return f"You do not have permissions to read from this Channel topic: {self.topic}"

    def joined(self) -> None:
        """Send the messages that follow the reply to a join, and start the timer for the token."""
        if self.replication_ready:
            self.hub.spawn(self._report_replication())
        self._watch_token()
        if self.changes:
            self.hub.changes.subscribe(self)

    async def _report_replication(self) -> None:
        await self.hub.messages.running.wait()
        if not self.closed:
            self.push_system("system", "ok", "Replication connection established")

    def push(self, event: str, payload: Any, *, ref: str | None = None) -> None:
        """Send the client a message of this topic."""
        self.send(encode(self.version, self.join_ref, ref, self.full_topic, event, dump(payload)))

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send the client a `system` message."""
        payload = {"extension": extension, "status": status, "message": message}
        self.push("system", {**payload, "channel": self.topic})

    def close(self) -> None:
        """Leave the topic, and remove all subscriptions, without a message to the client."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.hub.members.leave(self)
        self.hub.changes.unsubscribe(self)

    def shut_down(self, reason: str) -> None:
        """End the channel with a `system` message that contains the reason, and a `phx_close`."""
        if not self.closed:
            self.push_system("system", "error", reason)
            self.session.end(self)

    async def on_broadcast(self, message: Inbound) -> None:
        """Forward a broadcast of the client.

        Drop the broadcast if the client has no right to write.
        """
        if self.private and not await self._writes():
            return
        exclude = None if self.receives_own else self
        joined = (self.topic, self.private)
        if message.is_binary:
            broadcast = (message.payload["event"], dump(message.payload["payload"]), "")
            self.hub.members.deliver_binary(*joined, broadcast, exclude=exclude)
        else:
            self.hub.members.deliver(*joined, dump(message.payload), exclude=exclude)
        if self.ack:
            self.session.reply(message, {})

    async def _writes(self) -> bool:
        if self._may_write is None:
            try:
                self._may_write = await may_write(self.hub.database, self.token, self.topic)
            except DatabaseUnavailable:
                # do not store this result, because the database may be available at the next
                # broadcast
                return False
        return self._may_write

    async def on_access_token(self, payload: Any) -> None:
        """Replace the token of the channel.

        If the new token may not read the topic, end the channel.
        """
        text = payload.get("access_token") if isinstance(payload, dict) else None
        if not isinstance(text, str) or text.startswith("sb_") or text == self.token.text:
            return
        try:
            token = self.hub.verifier.verify(text)
            if self.private and not await may_read(self.hub.database, token, self.topic):
                self.shut_down(self._no_read)
                return
        except (TokenError, DatabaseUnavailable) as error:
            self.shut_down(str(error).partition(": ")[2])
            return
        self.token = token
        self._may_write = None
        self._watch_token()
        if self.changes:
            self.hub.changes.subscribe(self)

    def _watch_token(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.token.expires_at is None or self.closed:
            return
        # check slightly later, because the token must have expired by then
        left = self.token.expires_at - time.time() + 0.02
        delay = min(max(left, 0), TOKEN_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._check_token)

    def _check_token(self) -> None:
        try:
            self.token.check_expiry()
        except TokenError as error:
            self.shut_down(error.message)
            return
        self._watch_token()
