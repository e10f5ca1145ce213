"""A channel as rooms, changes and replay see it, and a socket as its channels and the hub see it.

`channels.Channel` and `session.Session` are what they name; what serves them imports this alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from minutehand.local.realtime.authorization import Rights
from minutehand.local.realtime.join import JoinRequest
from minutehand.local.realtime.serializer import Fanout, Version
from minutehand.local.realtime.tokens import Token

#: What a client's topics begin with on the socket.
PREFIX: Final = "realtime:"


class Member(Protocol):
    """A joined topic on one socket; equal only to itself."""

    @property
    def topic(self) -> str:
        """Without `PREFIX`."""

    @property
    def full_topic(self) -> str:
        """With `PREFIX`."""

    @property
    def private(self) -> bool:
        """Whether row level security decides on it."""

    @property
    def version(self) -> Version:
        """The protocol's version that the client speaks."""

    @property
    def request(self) -> JoinRequest:
        """What the client asked for when it joined."""

    @property
    def token(self) -> Token:
        """Whose rights it has."""

    @property
    def reads(self) -> Rights:
        """What it may read."""

    @property
    def reads_broadcast(self) -> bool:
        """`reads.broadcast`, for the hot path."""

    @property
    def closed(self) -> bool:
        """Whether it has ended; nothing is sent any more."""

    @property
    def held(self) -> list[tuple[Fanout, str | None]] | None:
        """What arrived while the replay is read; None once the join is answered."""

    @property
    def replayed_ids(self) -> set[str]:
        """Ids of messages that the replay has sent, to be skipped once."""

    @property
    def send_frame(self) -> Callable[[bytes], None]:
        """Writes one finished frame to the socket."""

    def receive_late(self, message: Fanout, message_id: str | None) -> None:
        """Hold a message while the replay is read; drop one that was replayed."""

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send a `system` frame."""

    def shut_down(self, reason: str) -> None:
        """End the channel for a reason."""


class Socket(Protocol):
    """One websocket; `send` writes a finished frame."""

    @property
    def version(self) -> Version:
        """The protocol's version that the client speaks."""

    @property
    def token(self) -> Token:
        """Of the handshake: for joins that bring none."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the handshake, without secrets."""

    @property
    def send(self) -> Callable[[bytes], None]:
        """Writes one finished frame."""

    def forget(self, channel: Member) -> None:
        """Take a channel that is closing off the socket."""

    def request_disconnect(self) -> None:
        """Tell every channel that the server ends the connection, then close."""
