"""Rooms: which channels have joined a topic, and how one message reaches all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final, Protocol

from minutehand.local.realtime.pgoutput import Change
from minutehand.local.realtime.serializer import Version, dump, encode
from minutehand.local.realtime.tokens import Token

#: What a client's topics begin with on the socket.
PREFIX: Final = "realtime:"


class Member(Protocol):
    """A joined topic on one socket; equal only to itself."""

    topic: str
    #: Whether row level security decides on it.
    private: bool
    version: Version
    token: Token
    #: It has ended; nothing is sent any more.
    closed: bool
    #: The `postgres_changes` that it asked for.
    changes: list[dict[str, Any]]

    def send(self, text: str) -> None:
        """Write to the socket."""

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send a `system` message."""


def fan_out(members: Iterable[Member], topic: str, event: str, payload: str) -> None:
    """Send one message to many, encoded at most once per version."""
    made: dict[Version, str] = {}
    for member in members:
        if member.version not in made:
            made[member.version] = encode(
                member.version, None, None, PREFIX + topic, event, payload
            )
        member.send(made[member.version])


class Rooms:
    """All rooms of the server: members by topic and privacy."""

    def __init__(self) -> None:
        self._rooms: defaultdict[tuple[str, bool], dict[Member, None]] = defaultdict(dict)

    def enter(self, channel: Member) -> None:
        """Add a channel to its room."""
        self._rooms[channel.topic, channel.private][channel] = None

    def leave(self, channel: Member) -> None:
        """Remove a channel; an empty room is forgotten."""
        key = (channel.topic, channel.private)
        members = self._rooms.get(key, {})
        members.pop(channel, None)
        if not members:
            self._rooms.pop(key, None)

    def deliver(
        self, topic: str, private: bool, payload: str, *, exclude: Member | None = None
    ) -> None:
        """Send a broadcast to every member of a room."""
        members = self._rooms.get((topic, private), {})
        fan_out([one for one in members if one is not exclude], topic, "broadcast", payload)

    def heard(self, change: Change) -> bool:
        """Whether a change is a message for a room that has members."""
        if change.action != "I":
            return False
        row = change.row()
        return bool(row["payload"]) and (row["topic"], row["private"] == "t") in self._rooms

    def deliver_row(self, change: Change) -> None:
        """Broadcast one row of `realtime.messages`."""
        row = change.row()
        meta = dump({"id": row["id"]})
        payload = (
            f'{{"type":"broadcast","event":{dump(row["event"])},'
            f'"payload":{row["payload"]},"meta":{meta}}}'
        )
        self.deliver(str(row["topic"]), row["private"] == "t", payload)
