"""A channel as rooms and changes see it, and a socket as its channels and the hub see it.

`channels.Channel` and `session.Session` are what they name; what serves them imports this alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from supabase_local.realtime.join import JoinRequest
from supabase_local.realtime.serializer import Version
from supabase_local.realtime.tokens import Token

#: What a client's topics begin with on the socket.
PREFIX: Final = "realtime:"


class Member(Protocol):
    """A joined topic on one socket; equal only to itself."""

    topic: str
    #: With `PREFIX`.
    full_topic: str
    #: Whether row level security decides on it.
    private: bool
    version: Version
    request: JoinRequest
    token: Token
    #: It has ended; nothing is sent any more.
    closed: bool
    #: Writes one finished frame to the socket.
    send_frame: Callable[[bytes], None]

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send a `system` frame."""

    def shut_down(self, reason: str) -> None:
        """End the channel for a reason."""


class Socket(Protocol):
    """One websocket."""

    version: Version
    #: Of the handshake: for joins that bring none.
    token: Token
    #: Of the handshake, without secrets.
    headers: Mapping[str, str]
    #: Writes one finished frame.
    send: Callable[[bytes], None]

    def forget(self, channel: Member) -> None:
        """Take a channel that is closing off the socket."""

    def request_disconnect(self) -> None:
        """Tell every channel that the server ends the connection, then close."""
