"""Turns websocket messages into frames and back, for protocol versions 1.0.0 and 2.0.0.

A broadcast is encoded once per version and sent to any number of sockets as the same bytes;
this module knows frames, not channels.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import Any, Literal

Version = Literal[1, 2]
BINARY, JSON = 0, 1
_KIND_PUSH, _KIND_FANOUT = 3, 4


class MalformedFrame(ValueError):
    """An inbound frame has no meaning; it is logged and dropped."""


@dataclasses.dataclass(slots=True)
class Inbound:
    """One message from a client. `payload` of a binary push is its bytes, else decoded JSON."""

    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any
    #: Set for a binary push (kind 3): the user's event, and how its payload is encoded.
    user_event: str | None = None
    encoding: int = JSON
    size: int = 0


def parse_version(text: str | None) -> Version | None:
    """The version a handshake asked for; None when it is not supported."""
    if text is None or text == "1.0.0":
        return 1
    return 2 if text == "2.0.0" else None


def dump(value: Any) -> str:
    """Compact JSON as a client expects it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def load(text: str | bytes) -> Any:
    """Decode JSON strictly: no NaN or Infinity, valid UTF-8, bounded depth.

    Raises:
        MalformedFrame: The text is not JSON.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            dump(value).encode()  # half a surrogate pair could never be sent on
    except (ValueError, RecursionError) as error:
        raise MalformedFrame(f"not JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# ------------------------------------------------------------------------------------- inbound


def decode(version: Version, data: str | bytes) -> Inbound:
    """Read one message.

    Raises:
        MalformedFrame: It is none.
    """
    if isinstance(data, bytes):
        if version == 1:
            raise MalformedFrame("version 1.0.0 has no binary frames")
        return _decode_push(data)
    message = load(data)
    if version == 2:
        if not isinstance(message, list) or len(message) < 5:
            raise MalformedFrame("not an array of five")
        join_ref, ref, topic, event, payload = message[:5]
    else:
        if not isinstance(message, dict) or not {"topic", "event", "payload", "ref"} <= set(
            message
        ):
            raise MalformedFrame("topic, event, payload and ref are required")
        join_ref = message.get("join_ref")
        ref, topic, event, payload = (message[k] for k in ("ref", "topic", "event", "payload"))
    if not isinstance(topic, str) or not isinstance(event, str):
        raise MalformedFrame("topic and event must be strings")
    return Inbound(_ref(join_ref), _ref(ref), topic, event, payload, size=len(data))


def _ref(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise MalformedFrame("a ref must be a string")


def _decode_push(data: bytes) -> Inbound:
    if len(data) < 7 or data[0] != _KIND_PUSH:
        raise MalformedFrame(f"unknown binary frame {data[:1].hex()!r}")
    lengths, encoding, at = data[1:6], data[6], 7
    if len(data) < at + sum(lengths) or encoding not in (BINARY, JSON):
        raise MalformedFrame("truncated binary frame")
    parts: list[str] = []
    for length in lengths:
        try:
            parts.append(data[at : at + length].decode())
        except UnicodeDecodeError as error:
            raise MalformedFrame("a header is not UTF-8") from error
        at += length
    join_ref, ref, topic, event, _metadata = parts
    payload = data[at:]
    return Inbound(
        join_ref or None, ref or None, topic, "broadcast", payload, event, encoding, len(payload)
    )


# ------------------------------------------------------------------------------------ outbound


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked, final websocket frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def text_frame(text: str) -> bytes:
    """A websocket text frame."""
    return websocket_frame(1, text.encode())


def encode(
    version: Version, join_ref: str | None, ref: str | None, topic: str, event: str, payload: str
) -> bytes:
    """A frame whose payload is JSON already."""
    if version == 2:
        head = dump([join_ref, ref, topic, event])
        return text_frame(f"{head[:-1]},{payload}]")
    return text_frame(
        f'{{"topic":{dump(topic)},"event":{dump(event)},"payload":{payload},"ref":{dump(ref)}}}'
    )


def reply(
    version: Version,
    join_ref: str | None,
    ref: str | None,
    topic: str,
    response: Any,
    status: str = "ok",
) -> bytes:
    """A `phx_reply`."""
    return encode(
        version, join_ref, ref, topic, "phx_reply", dump({"status": status, "response": response})
    )


class Fanout:
    """One message for many sockets, encoded at most once per version."""

    __slots__ = ("_frames", "event", "payload", "topic")

    def __init__(self, topic: str, event: str, payload: str) -> None:
        self.topic = topic
        self.event = event
        self.payload = payload
        self._frames: dict[Version, bytes | None] = {}

    def frame(self, version: Version) -> bytes | None:
        """The bytes for sockets of `version`; None when they do not get this message."""
        try:
            return self._frames[version]
        except KeyError:
            made = self._frames[version] = self._encode(version)
            return made

    def _encode(self, version: Version) -> bytes | None:
        return encode(version, None, None, self.topic, self.event, self.payload)


class UserBroadcast(Fanout):
    """A broadcast that travels in binary to version 2 and as text to version 1."""

    __slots__ = ("body", "encoding", "metadata", "user_event")

    def __init__(
        self,
        topic: str,
        user_event: str,
        body: bytes,
        *,
        encoding: int = JSON,
        message_id: str | None = None,
    ) -> None:
        super().__init__(topic, "broadcast", "")
        self.user_event = user_event
        self.body = body
        self.encoding = encoding
        self.metadata = ""
        if message_id is not None:
            self.metadata = f'{{"id":"{message_id}"}}'

    def _encode(self, version: Version) -> bytes | None:
        if version == 2:
            return self._encode_binary()
        if self.encoding == BINARY:
            return None
        return encode(1, None, None, self.topic, "broadcast", self.text_payload())

    def text_payload(self) -> str:
        """The payload of this broadcast's text form."""
        meta = f',"meta":{self.metadata}' if self.metadata else ""
        body = self.body.decode()
        return f'{{"type":"broadcast","event":{dump(self.user_event)},"payload":{body}{meta}}}'

    def _encode_binary(self) -> bytes:
        topic, event = self.topic.encode(), self.user_event.encode()
        metadata = self.metadata.encode()
        if len(topic) > 255 or len(event) > 255:
            # a length is one byte in the binary form: fall back to text, which clients read as well
            return encode(2, None, None, self.topic, "broadcast", self.text_payload())
        header = bytes((_KIND_FANOUT, len(topic), len(event), len(metadata), self.encoding))
        return websocket_frame(2, b"".join((header, topic, event, metadata, self.body)))
