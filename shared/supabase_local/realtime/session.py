"""One websocket: decodes its frames in order, answers heartbeats, opens and closes its channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from supabase_local.realtime.changes import SubscriptionRefused
from supabase_local.realtime.channels import Channel
from supabase_local.realtime.database import DatabaseUnavailable
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.join import JoinRefused, parse_join
from supabase_local.realtime.member import PREFIX, Member
from supabase_local.realtime.serializer import (
    Inbound,
    MalformedFrame,
    Version,
    decode,
    dump,
    encode,
    reply,
)
from supabase_local.realtime.tokens import Token

logger = logging.getLogger(__name__)


class Session:
    """The Phoenix side of a socket; `send` and `close` belong to its connection."""

    def __init__(
        self,
        hub: Hub,
        *,
        version: Version,
        token: Token,
        headers: Mapping[str, str],
        send: Callable[[bytes], None],
        close: Callable[[int, str], None],
    ) -> None:
        self.hub = hub
        self.version = version
        self.token = token
        self.headers = headers
        self.send = send
        self.close_socket = close
        self.channels: dict[str, Channel] = {}
        self.ended = False

    # -------------------------------------------------------------------------- inbound

    async def handle(self, data: str | bytes) -> None:
        """Handle one websocket message; a malformed one is logged and dropped."""
        try:
            message = decode(self.version, data)
            await self._dispatch(message)
        except MalformedFrame as error:
            logger.warning(
                "malformed message dropped",
                extra={
                    "event": "realtime.malformed_message",
                    "code": "MalformedWebSocketMessage",
                    "reason": str(error)[:300],
                },
            )
        except Exception:
            # whatever one message does, the socket and the others continue
            logger.exception(
                "message failed",
                extra={
                    "event": "realtime.message_failed",
                    "code": "UnknownErrorOnWebSocketMessage",
                },
            )

    async def _dispatch(self, message: Inbound) -> None:
        topic, event = message.topic, message.event
        if topic == "phoenix":
            if event == "heartbeat":
                self.send(reply(self.version, message.join_ref, message.ref, topic, {}))
            return
        if event == "phx_join" and topic.startswith(PREFIX):
            await self._join(message)
            return
        channel = self.channels.get(topic)
        if channel is None:
            self._on_unjoined(message)
            return
        if message.join_ref is not None and message.join_ref != channel.join_ref:
            return  # meant for an instance that is gone
        if event == "phx_leave":
            self.forget(channel)
            self._reply(message, {}, join_ref=channel.join_ref)
            channel.close_and_notify()
            return
        try:
            await channel.handle(message)
        except MalformedFrame:
            raise
        except Exception:
            # clients rejoin a channel that crashed
            self.forget(channel)
            channel.crash()
            raise

    def _on_unjoined(self, message: Inbound) -> None:
        if message.event == "phx_leave":
            self._reply(message, {})
        else:
            self.send(
                reply(
                    self.version,
                    None,
                    message.ref,
                    message.topic,
                    {"reason": "unmatched topic"},
                    "error",
                )
            )

    def _reply(
        self, message: Inbound, response: Any, status: str = "ok", *, join_ref: str | None = None
    ) -> None:
        join_ref = join_ref or message.join_ref
        self.send(reply(self.version, join_ref, message.ref, message.topic, response, status))

    # ----------------------------------------------------------------------------- join

    async def _join(self, message: Inbound) -> None:
        old = self.channels.pop(message.topic, None)
        if old is not None:
            old.close_and_notify()
        try:
            await self._open(message)
        except JoinRefused as refused:
            logger.info(
                "join refused",
                extra={
                    "event": "realtime.join_refused",
                    "topic": message.topic[:300],
                    "reason": refused.reason[:300],
                },
            )
            await asyncio.sleep(self.hub.limits.join_error_delay_seconds)
            self._reply(message, {"reason": refused.reason}, "error")
            if refused.close_code is not None:
                self.close_socket(refused.close_code, "")
        except Exception:
            logger.exception("join failed", extra={"event": "realtime.join_failed"})
            self._reply(message, {"reason": "Unknown Error on Channel"}, "error")

    async def _open(self, message: Inbound) -> None:
        hub, topic = self.hub, message.topic.removeprefix(PREFIX)
        if not topic:
            raise JoinRefused("TopicNameRequired: You must provide a topic name")
        request = parse_join(message.payload)
        # a null join_ref makes the push's own ref the channel's, as Phoenix clients send both alike
        join_ref = message.join_ref if message.join_ref is not None else message.ref
        channel = Channel(self, hub, topic, join_ref, request)
        hub.check_join()
        try:
            await channel.authorize(request.token)
            if request.changes and request.wait_for_changes:
                await hub.changes.subscribe_and_wait(channel, request.wait_timeout_seconds)
        except SubscriptionRefused as error:
            channel.close()
            raise JoinRefused(str(error)) from error
        except DatabaseUnavailable as error:
            channel.close()
            raise JoinRefused(error.reason) from error
        except BaseException:
            channel.close()
            raise
        if self.ended:
            channel.close()
            return
        self.channels[message.topic] = channel
        hub.rooms.enter(channel)
        self.send(
            encode(
                self.version,
                message.join_ref,
                message.ref,
                message.topic,
                "phx_reply",
                dump({"status": "ok", "response": {"postgres_changes": request.changes_reply()}}),
            )
        )
        channel.joined()
        if request.changes and not request.wait_for_changes:
            hub.changes.subscribe(channel)

    # ------------------------------------------------------------------------------ end

    def forget(self, channel: Member) -> None:
        """Take a channel that is closing off the socket."""
        if self.channels.get(channel.full_topic) is channel:
            del self.channels[channel.full_topic]

    def end(self) -> None:
        """The socket is gone: close its channels without a word."""
        self.ended = True
        for channel in list(self.channels.values()):
            channel.close()
        self.channels.clear()

    def request_disconnect(self) -> None:
        """Tell every channel that the server ends the connection, then close with 1012."""
        payload = dump(
            {"extension": "system", "status": "ok", "message": "Server requested disconnect"}
        )
        for channel in self.channels.values():
            self.send(
                encode(self.version, channel.join_ref, None, channel.full_topic, "system", payload)
            )
        self.close_socket(1012, "")
