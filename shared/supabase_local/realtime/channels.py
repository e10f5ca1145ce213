"""One joined topic on one socket: its rights, its token, what it sends and what it receives.

How a channel comes to be is in `session`; how one message reaches many channels in `broadcast`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from typing import Any

from supabase_local.realtime.authorization import ALL, Rights
from supabase_local.realtime.database import DatabaseUnavailable
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.join import JoinRefused, JoinRequest
from supabase_local.realtime.limits import CallWindow
from supabase_local.realtime.member import PREFIX, Socket
from supabase_local.realtime.presence import diff_message
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
    """What someone without the right to read a topic is told."""
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
        self.reads = ALL
        self.reads_broadcast = True
        self.presence_enabled = request.presence_enabled
        self.presence_key = request.presence_key or str(uuid.uuid4())
        self.closed = False
        self._writes: dict[str, bool] = {}
        self._presence_calls = CallWindow(
            hub.limits.presence_calls, hub.limits.presence_window_seconds
        )
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
            rights = await self._probe_reads(self.token)
        except DatabaseUnavailable as error:
            raise JoinRefused(error.reason) from error
        if not rights:
            raise JoinRefused(f"Unauthorized: {no_read(self.topic)}")
        self._set_reads(rights)

    async def _probe_reads(self, token: Token) -> Rights:
        extensions = ["broadcast", "presence"] if self.presence_enabled else ["broadcast"]
        return await self.hub.authorizer.read(token, self.topic, extensions, self.session.headers)

    def _set_reads(self, rights: Rights) -> None:
        self.reads = rights
        self.reads_broadcast = rights.broadcast

    def joined(self) -> None:
        """Tell the client what follows the join's reply, and start the token's clock."""
        if self.presence_enabled and self.reads.presence:
            self._push_presence_state()
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

    def _push_presence_state(self) -> None:
        room = self.hub.rooms.find(self.topic, self.private)
        self._push("presence_state", room.presence.state() if room else {})

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
        self._untrack()
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
        elif message.event == "presence":
            await self._on_presence(message)
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
        hub.rooms.rate.add()
        if message.size > hub.limits.payload_bytes and _too_large(
            message, hub.limits.payload_bytes
        ):
            if self.request.ack:
                self._reply(message.ref, "payload_size_exceeded", "error")
            return
        if not await self._may_write("broadcast"):
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

    async def _may_write(self, extension: str) -> bool:
        if not self.private:
            return True
        known = self._writes.get(extension)
        if known is None:
            try:
                known = await self.hub.authorizer.write(
                    self.token, self.topic, extension, self.session.headers
                )
            except DatabaseUnavailable:
                return False  # not remembered: the database may be back for the next push
            self._writes[extension] = known
        return known

    # ------------------------------------------------------------------------- presence

    async def _on_presence(self, message: Inbound) -> None:
        if not self._presence_calls.allow():
            self.shut_down("Client presence rate limit exceeded")
            return
        if not self.hub.presence_rate.allow():
            self.shut_down("Too many presence messages per second")
            return
        payload = message.payload if isinstance(message.payload, dict) else {}
        name = payload.get("event")
        action = name.lower() if isinstance(name, str) else ""
        if action == "untrack":
            self._untrack()
            self._reply(message.ref, {})
        elif action == "track":
            await self._track(message, payload.get("payload", {}))
        else:
            self._reply(message.ref, {}, "error")

    async def _track(self, message: Inbound, meta: Any) -> None:
        if not isinstance(meta, dict):
            response = {"reason": "Presence track payload must be a map"}
            self._reply(message.ref, response, "error")
            return
        if len(dump(meta).encode()) > self.hub.limits.payload_bytes:
            self.shut_down("Track message size exceeded")
            return
        if not await self._may_write("presence"):
            self._reply(message.ref, {}, "error")
            return
        if not self.presence_enabled:
            await self._enable_presence()
        room = self.hub.rooms.find(self.topic, self.private)
        if self.closed or room is None:
            return
        diff = room.presence.track(self, self.presence_key, meta)
        self._reply(message.ref, {})
        if diff is not None:
            self._send_diff(diff)

    async def _enable_presence(self) -> None:
        self.presence_enabled = True
        if self.private:
            try:
                self._set_reads(await self._probe_reads(self.token))
            except DatabaseUnavailable:
                return
        if self.reads.presence:
            self._push_presence_state()

    def _untrack(self) -> None:
        room = self.hub.rooms.find(self.topic, self.private)
        diff = room.presence.untrack(self) if room else None
        if diff is not None:
            self._send_diff(diff)

    def _send_diff(self, diff: Any) -> None:
        room = self.hub.rooms.find(self.topic, self.private)
        message = diff_message(self.full_topic, diff)
        for member in list(room.members) if room else ():
            if member.reads.presence and not member.closed:
                frame = message.frame(member.version)
                if frame is not None:
                    member.send_frame(frame)

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
                rights = await self._probe_reads(token)
            except DatabaseUnavailable as error:
                self.shut_down(error.reason.partition(": ")[2])
                return
            if not rights:
                self.shut_down(no_read(self.topic))
                return
            if not rights.covers(self.reads):
                self.shut_down(
                    f"You no longer have permission to read from this Channel topic: {self.topic}"
                )
                return
            self._set_reads(rights)
        if self.closed:
            return
        self.token = token
        self._writes.clear()
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
