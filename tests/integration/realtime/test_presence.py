"""Who is there: state on join, a diff for every change, limits and policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    JavaScript,
    Server,
    Socket,
    token,
    unique,
)

ENABLED = {"presence": {"enabled": True, "key": "ada"}}


async def track(socket: Socket, topic: str, payload: Any, event: str = "track") -> str | None:
    body = {"type": "presence", "event": event, "payload": payload}
    return await socket.push(f"realtime:{topic}", "presence", body)


def users(metas: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: [m.get("user") for m in value["metas"]] for key, value in metas.items()}


@pytest.mark.parametrize("version", [1, 2])
async def test_a_life_of_presence(connect: Any, version: int) -> None:
    """Check 22: state, join, update with phx_ref_prev, untrack."""
    topic = unique()
    one, two = await connect(version=version), await connect(version=version)
    await one.joined(topic, **ENABLED)
    assert (await one.expect("presence_state"))["payload"] == {}

    ref = await track(one, topic, {"user": "a"})
    assert (await one.reply_to(ref)) == {"status": "ok", "response": {}}
    first = (await one.expect("presence_diff"))["payload"]
    await two.joined(topic, presence={"enabled": True, "key": "eve"})
    state = (await two.expect("presence_state"))["payload"]
    await track(one, topic, {"user": "a2"})
    update = (await two.expect("presence_diff"))["payload"]
    await track(one, topic, {}, "UnTrack")
    gone = (await two.expect("presence_diff"))["payload"]

    assert users(first["joins"]) == {"ada": ["a"]}
    assert first["leaves"] == {}
    assert state == first["joins"]
    old_ref = first["joins"]["ada"]["metas"][0]["phx_ref"]
    assert users(update["joins"]) == {"ada": ["a2"]}
    assert users(update["leaves"]) == {"ada": ["a"]}
    assert update["joins"]["ada"]["metas"][0]["phx_ref_prev"] == old_ref
    assert gone["joins"] == {}
    assert users(gone["leaves"]) == {"ada": ["a2"]}


async def test_leaving_and_losing_the_socket_are_leaves(connect: Any) -> None:
    """Check 22: whichever way somebody goes."""
    topic = unique()
    watcher, leaver, loser = [await connect() for _ in range(3)]
    await watcher.joined(topic, **ENABLED)
    for name, socket in (("leaver", leaver), ("loser", loser)):
        await socket.joined(topic, presence={"enabled": True, "key": name})
        await track(socket, topic, {"user": name})
        await watcher.expect("presence_diff")

    await leaver.push(f"realtime:{topic}", "phx_leave", {})
    left = (await watcher.expect("presence_diff"))["payload"]
    loser.connection.transport.abort()
    lost = (await watcher.expect("presence_diff"))["payload"]

    assert users(left["leaves"]) == {"leaver": ["leaver"]}
    assert users(lost["leaves"]) == {"loser": ["loser"]}


async def test_two_sockets_with_one_key_give_two_metas(connect: Any) -> None:
    """Check 22: one person, two tabs."""
    topic = unique()
    one, two = await connect(), await connect()
    for socket, tab in ((one, 1), (two, 2)):
        await socket.joined(topic, **ENABLED)
        await track(socket, topic, {"user": tab})
        await socket.expect("presence_diff")
    late = await connect()

    await late.joined(topic, presence={"enabled": True})

    assert users((await late.expect("presence_state"))["payload"]) == {"ada": [1, 2]}


async def test_the_same_payload_again_changes_nothing(connect: Any) -> None:
    """§8: a no-op is acknowledged and nobody hears of it."""
    topic, socket = unique(), await connect()
    await socket.joined(topic, **ENABLED)
    await track(socket, topic, {"user": "a"})
    await socket.expect("presence_diff")

    again = await track(socket, topic, {"user": "a"})

    assert (await socket.reply_to(again))["status"] == "ok"
    socket.pending.clear()
    await socket.silence()


async def test_a_channel_without_presence_gets_diffs_but_no_state(connect: Any) -> None:
    """§8: on public channels; tracking turns presence on."""
    topic = unique()
    plain, tracker = await connect(), await connect()
    await plain.joined(topic)
    await tracker.joined(topic)

    await track(tracker, topic, {"user": "t"})

    assert (await plain.receive())["event"] == "presence_diff"
    assert (await tracker.expect("presence_state"))["payload"] == {}
    assert users((await tracker.expect("presence_diff"))["payload"]["joins"]) != {}


@pytest.mark.parametrize(
    ("event", "payload", "response"),
    [
        ("track", "text", {"reason": "Presence track payload must be a map"}),
        ("track", [1], {"reason": "Presence track payload must be a map"}),
        ("dance", {}, {}),
        (7, {}, {}),
    ],
)
async def test_a_presence_message_without_meaning_is_an_error(
    connect: Any, event: Any, payload: Any, response: Any
) -> None:
    """§8: the channel stays."""
    topic, socket = unique(), await connect()
    await socket.joined(topic, **ENABLED)

    ref = await track(socket, topic, payload, event)

    assert await socket.reply_to(ref) == {"status": "error", "response": response}


async def test_the_sixth_call_in_thirty_seconds_ends_that_channel_only(connect: Any) -> None:
    """Check 23: a system error, then the close."""
    topic, other = unique(), unique()
    socket = await connect()
    join_ref = await socket.joined(topic, **ENABLED)
    await socket.joined(other, **ENABLED)

    for n in range(6):
        await track(socket, topic, {"user": n})
    system = await socket.expect("system")
    close = await socket.expect("phx_close")

    assert system["payload"] == {
        "extension": "system",
        "status": "error",
        "message": "Client presence rate limit exceeded",
        "channel": topic,
    }
    assert (close["topic"], close["ref"]) == (f"realtime:{topic}", join_ref)
    assert (await socket.reply_to(await track(socket, other, {"user": 1})))["status"] == "ok"


async def test_the_projects_presence_rate_ends_the_channel(
    connect: Any, start_server: Callable[..., Server]
) -> None:
    """§8: too many presence messages of everybody together."""
    slow = start_server(presence_messages_per_second=0.05)
    topic, socket = unique(), await connect(server=slow)
    await socket.joined(topic, **ENABLED)

    for n in range(4):
        await track(socket, topic, {"user": n})

    system = await socket.expect("system")
    assert system["payload"]["message"] == "Too many presence messages per second"


async def test_policies_gate_reading_and_writing(connect: Any, grant: Any) -> None:
    """Check 24: read denied means neither state nor diff; write denied is an error."""
    topic = unique()
    for user in (ADA, EVE):
        grant(topic, user)
    grant(topic, ADA, extension="presence")
    ada, eve = await connect(), await connect()
    await ada.joined(topic, access_token=token(ADA), private=True, presence={"enabled": True})
    await eve.joined(topic, access_token=token(EVE), private=True, presence={"enabled": True})
    assert (await ada.expect("presence_state"))["payload"] == {}

    allowed = await track(ada, topic, {"user": "ada"})
    denied = await track(eve, topic, {"user": "eve"})

    assert (await ada.reply_to(allowed))["status"] == "ok"
    assert await eve.reply_to(denied) == {"status": "error", "response": {}}
    await ada.expect("presence_diff")
    await eve.silence()


async def test_a_member_with_presence_only_receives_no_broadcast(connect: Any, grant: Any) -> None:
    """§6: the join is allowed by either right."""
    topic = unique()
    grant(topic, ADA, extension="presence")
    grant(topic, EVE)
    ada, eve = await connect(), await connect()
    await ada.joined(topic, access_token=token(ADA), private=True, presence={"enabled": True})
    await eve.joined(topic, access_token=token(EVE), private=True)
    await ada.expect("presence_state")

    await eve.broadcast(topic, "secret", {})

    await ada.silence()


async def test_the_javascript_client_sees_who_is_there(server: Server, js: JavaScript) -> None:
    """Check 22 with the official client's own bookkeeping."""
    topic = unique()
    on = [{"type": "presence", "event": name} for name in ("sync", "join", "leave")]
    for name in ("ada", "eve"):
        await js.call("client", name=name, url=server.http, key=PUBLISHABLE)
        config = {"presence": {"key": name}}
        await js.call("subscribe", client=name, channel=name, topic=topic, config=config, on=on)

    assert await js.call("track", channel="ada", payload={"user": 1}) == "ok"
    assert await js.call("track", channel="eve", payload={"user": 2}) == "ok"

    def heard(event: str) -> list[str]:
        return [got["key"] for got in js.got("ada", "presence") if got["event"] == event]

    await js.until(lambda _: heard("join") == ["ada", "eve"])
    assert set(await js.call("presence", channel="ada")) == {"ada", "eve"}
    await js.call("remove", channel="eve")
    await js.until(lambda _: heard("leave") == ["eve"])
    assert set(await js.call("presence", channel="ada")) == {"ada"}
