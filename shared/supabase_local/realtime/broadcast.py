"""The channels that have joined each topic, and the delivery of messages to these channels."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from supabase_local.realtime.pgoutput import Change
from supabase_local.realtime.serializer import Version, dump, encode, encode_broadcast

#: Event name, payload and metadata of a broadcast. Payload and metadata are JSON.
Broadcast = tuple[str, str, str]
#: Prefix of the names of topics in clients' messages.
PREFIX = "realtime:"


class Member(Protocol):
    """A channel that has joined a topic."""

    version: Version
    topic: str
    private: bool

    def send(self, frame: str | bytes, /) -> None:
        """Send one frame to the client."""


def fan_out(members: Iterable[Member], topic: str, event: str, payload: str) -> None:
    """Send one message to several channels, encoded at most once per protocol version."""
    frames: dict[Version, str] = {}
    for member in members:
        if member.version not in frames:
            frames[member.version] = encode(
                member.version, None, None, PREFIX + topic, event, payload
            )
        member.send(frames[member.version])


class Members:
    """Channels that have joined a topic, by topic and by whether the channel is private."""

    def __init__(self) -> None:
        self._members: defaultdict[tuple[str, bool], dict[Member, None]] = defaultdict(dict)

    def enter(self, channel: Member) -> None:
        """Add a channel to the channels of its topic."""
        self._members[channel.topic, channel.private][channel] = None

    def leave(self, channel: Member) -> None:
        """Remove a channel. If the topic of the channel has no other channel, remove the topic."""
        key = (channel.topic, channel.private)
        members = self._members.get(key, {})
        members.pop(channel, None)
        if not members:
            self._members.pop(key, None)

    def deliver(
        self, topic: str, private: bool, payload: str, *, exclude: Member | None = None
    ) -> None:
        """Send a client's text broadcast to all channels of a topic."""
        members = self._members.get((topic, private), {})
        fan_out([one for one in members if one is not exclude], topic, "broadcast", payload)

    def deliver_binary(
        self, topic: str, private: bool, message: Broadcast, *, exclude: Member | None = None
    ) -> None:
        """Send a broadcast that came in a binary frame or from the database.

        Clients with protocol version 2 get the broadcast in a binary frame.
        """
        members = [one for one in self._members.get((topic, private), {}) if one is not exclude]
        event, payload, metadata = message
        frame = encode_broadcast(PREFIX + topic, event, metadata, payload)
        for member in members:
            if member.version == 2:
                member.send(frame)
        meta = f',"meta":{metadata}' if metadata else ""
        text = f'{{"type":"broadcast","event":{dump(event)},"payload":{payload}{meta}}}'
        fan_out([one for one in members if one.version == 1], topic, "broadcast", text)

    def is_wanted(self, change: Change) -> bool:
        """Return whether a row change is a message for a topic that some channel has joined."""
        if change.action != "I":
            return False
        row = change.row()
        return bool(row["payload"]) and (row["topic"], row["private"] == "t") in self._members

    def deliver_row(self, change: Change) -> None:
        """Broadcast a row of `realtime.messages`."""
        row = change.row()
        message = (str(row["event"]), str(row["payload"]), dump({"id": row["id"]}))
        self.deliver_binary(str(row["topic"]), row["private"] == "t", message)
