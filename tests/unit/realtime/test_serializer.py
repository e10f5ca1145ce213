"""Frames of both versions, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supabase_local.realtime.serializer import (
    MalformedFrame,
    UserBroadcast,
    decode,
    dump,
    websocket_frame,
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def body(frame: bytes | None) -> bytes:
    """The payload of a websocket frame."""
    assert frame is not None
    size = frame[1]
    return frame[{126: 4, 127: 10}.get(size, 2) :]


@given(topic=st.text(max_size=40), event=st.text(max_size=40), payload=json_values)
def test_both_versions_read_what_a_client_writes(topic: str, event: str, payload: Any) -> None:
    """Whatever JSON a client sends, both forms mean the same."""
    if not (topic + event).isprintable():
        return
    one = decode(1, json.dumps({"topic": topic, "event": event, "payload": payload, "ref": "7"}))
    two = decode(2, json.dumps([None, "7", topic, event, payload]))

    assert (one.topic, one.event, one.payload, one.ref) == (topic, event, payload, "7")
    assert (two.topic, two.event, two.payload, two.ref) == (topic, event, payload, "7")


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_garbage_is_malformed_or_a_message_but_never_another_error(data: str | bytes) -> None:
    """A socket must survive anything."""
    for version in (1, 2):
        try:
            decode(version, data)
        except MalformedFrame:
            continue


@given(event=st.text(st.characters(exclude_categories=["Cs"]), max_size=300), payload=json_values)
def test_a_user_broadcast_means_the_same_in_both_versions(event: str, payload: Any) -> None:
    """Binary for version 2 unless a name is too long for one byte, text for version 1."""
    message = UserBroadcast("realtime:é", event, dump(payload).encode(), message_id="m")

    text = json.loads(body(message.frame(1)))
    binary = body(message.frame(2))

    assert text["payload"] == {
        "type": "broadcast",
        "event": event,
        "payload": payload,
        "meta": {"id": "m"},
    }
    if len(event.encode()) > 255:
        assert json.loads(binary)[4] == text["payload"]
    else:
        kind, topic_size, event_size, meta_size, encoding = binary[:5]
        at = 5 + topic_size
        assert (kind, encoding) == (4, 1)
        assert binary[5:at].decode() == "realtime:é"
        assert binary[at : at + event_size].decode() == event
        at += event_size
        assert json.loads(binary[at : at + meta_size]) == {"id": "m"}
        assert json.loads(binary[at + meta_size :]) == payload


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_states_its_length(size: int) -> None:
    """The three length forms of RFC 6455."""
    frame = websocket_frame(2, b"x" * size)

    assert frame[0] == 0x82
    assert body(frame) == b"x" * size
