"""Rooms: which channels have joined a topic, and how one message reaches all of them.

The loop in `Rooms.deliver` is the hot path; everything it needs is computed before it.
"""

from __future__ import annotations

import re

from supabase_local.realtime.member import PREFIX, Member
from supabase_local.realtime.pgoutput import Change, Unchanged
from supabase_local.realtime.serializer import BINARY, JSON, Fanout, UserBroadcast

_MESSAGES_TABLE = re.compile(r"messages(_\d{4}_\d{2}_\d{2})?")


class Room:
    """The members of one topic and privacy. Public `x` and private `x` are two rooms."""

    __slots__ = ("members", "private", "topic")

    def __init__(self, topic: str, private: bool) -> None:
        self.topic = topic
        self.private = private
        self.members: dict[Member, None] = {}


class Rooms:
    """All rooms of the server."""

    def __init__(self, *, drop_every: int = 0) -> None:
        self._rooms: dict[tuple[str, bool], Room] = {}
        self._drop_every = drop_every
        self._rows = 0

    def __len__(self) -> int:
        return len(self._rooms)

    def enter(self, channel: Member) -> Room:
        """Add a channel to its room."""
        key = (channel.topic, channel.private)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(*key)
        room.members[channel] = None
        return room

    def leave(self, channel: Member) -> None:
        """Remove a channel; an empty room is forgotten."""
        room = self._rooms.get((channel.topic, channel.private))
        if room is None:
            return
        room.members.pop(channel, None)
        if not room.members:
            del self._rooms[room.topic, room.private]

    def find(self, topic: str, private: bool) -> Room | None:
        """The room, if it has members."""
        return self._rooms.get((topic, private))

    def deliver(
        self, topic: str, private: bool, message: Fanout, *, exclude: Member | None = None
    ) -> None:
        """Send a broadcast to every member that may read broadcasts."""
        room = self._rooms.get((topic, private))
        if room is None:
            return
        for member in list(room.members):
            if member is exclude:
                continue
            frame = message.frame(member.version)
            if frame is not None:
                member.send_frame(frame)

    def heard(self, change: Change) -> bool:
        """Whether a change would reach a subscriber: a message for a room that has members."""
        if change.action != "I" or not _is_messages(change):
            return False
        row = _row_of(change)
        return (row.get("topic"), row.get("private") == "t") in self._rooms

    def deliver_changes(self, changes: list[Change]) -> None:
        """Broadcast the rows that a transaction inserted into `realtime.messages`."""
        for change in changes:
            if change.action == "I" and _is_messages(change):
                self.deliver_row(_row_of(change))

    def deliver_row(self, row: dict[str, str | Unchanged | None]) -> None:
        """Broadcast one row of `realtime.messages`, but each `drop_every`th."""
        topic, event, private = row.get("topic"), row.get("event"), row.get("private")
        message_id = row.get("id")
        if not isinstance(topic, str) or not isinstance(event, str) or not isinstance(private, str):
            return
        if not isinstance(message_id, str):
            return
        if (topic, private == "t") not in self._rooms:
            return
        self._rows += 1
        if self._drop_every and self._rows % self._drop_every == 0:
            return
        payload, binary = row.get("payload"), row.get("binary_payload")
        if isinstance(payload, str):
            body, encoding = payload.encode(), JSON
        elif isinstance(binary, str):
            body, encoding = bytes.fromhex(binary.removeprefix("\\x")), BINARY
        else:
            return
        message = UserBroadcast(
            PREFIX + topic, event, body, encoding=encoding, message_id=message_id
        )
        self.deliver(topic, private == "t", message)


def _row_of(change: Change) -> dict[str, str | Unchanged | None]:
    names = (column.name for column in change.relation.columns)
    return dict(zip(names, change.new or (), strict=True))


def _is_messages(change: Change) -> bool:
    relation = change.relation
    return relation.schema == "realtime" and _MESSAGES_TABLE.fullmatch(relation.table) is not None
