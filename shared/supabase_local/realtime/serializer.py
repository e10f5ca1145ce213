"""Encodes and decodes websocket messages of the protocol versions 1.0.0 and 2.0.0."""

import json
from dataclasses import dataclass
from typing import Any, Literal

Version = Literal[1, 2]
_KIND_PUSH, _KIND_BROADCAST, _JSON = 3, 4, 1


class MalformedFrame(ValueError):
    """A frame from a client is not valid. The frame is logged and dropped."""


@dataclass
class Inbound:
    """A message from a client."""

    join_ref: str | None
    ref: str | None
    topic: Any  # a topic that is not a string is rejected later as unknown
    event: str
    payload: Any
    is_binary: bool = False


def dump(value: Any) -> str:
    """Serialize a value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def decode(version: Version, data: str | bytes) -> Inbound:
    """Decode a message from a client. Raises MalformedFrame if the message is not valid."""
    try:
        if isinstance(data, bytes):
            return _decode_push(data)
        message = json.loads(data)
        if version == 2:
            join_ref, ref, topic, event, payload = message[:5]
        else:
            join_ref = message.get("join_ref")
            ref, topic, event, payload = (message[k] for k in ("ref", "topic", "event", "payload"))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise MalformedFrame(f"not a message: {error}") from error
    if not isinstance(event, str):
        raise MalformedFrame("an event must be a string")
    return Inbound(_ref(join_ref), _ref(ref), topic, event, payload)


def _ref(value: Any) -> str | None:
    return value if value is None else str(value)


def _decode_push(data: bytes) -> Inbound:
    """Decode a binary broadcast of version 2, which consists of lengths, headers and a payload."""
    lengths, at = data[1:6], 7
    if data[0] != _KIND_PUSH or data[6] != _JSON:
        raise MalformedFrame("not a broadcast of JSON")
    parts: list[str] = []
    for length in lengths:
        parts.append(data[at : at + length].decode())
        at += length
    join_ref, ref, topic, event, _metadata = parts
    payload = {"type": "broadcast", "event": event, "payload": json.loads(data[at:])}
    return Inbound(join_ref or None, ref or None, topic, "broadcast", payload, is_binary=True)


def encode(
    version: Version, join_ref: str | None, ref: str | None, topic: str, event: str, payload: str
) -> str:
    """Encode a message whose payload is already JSON."""
    if version == 2:
        return f"{dump([join_ref, ref, topic, event])[:-1]},{payload}]"
    return f'{{"topic":{dump(topic)},"event":{dump(event)},"payload":{payload},"ref":{dump(ref)}}}'


def encode_broadcast(topic: str, event: str, metadata: str, payload: str) -> bytes:
    """Encode a broadcast as a binary frame of version 2, with lengths, headers and a payload."""
    parts = [part.encode() for part in (topic, event, metadata)]
    head = bytes([_KIND_BROADCAST, *map(len, parts), _JSON])
    return head + b"".join(parts) + payload.encode()
