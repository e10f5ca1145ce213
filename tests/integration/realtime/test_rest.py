"""Broadcasting over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    token,
    unique,
)

KEY = {"apikey": PUBLISHABLE}


def message(topic: str, **more: Any) -> dict[str, Any]:
    return {"topic": topic, "event": "e", "payload": {"n": 1}, **more}


def post(server: Server, path: str = "", *, headers: Any = KEY, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.http}/realtime/v1/api/broadcast{path}", headers=headers, **options)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_batch_is_delivered_as_text(connect: Any, server: Server, version: int) -> None:
    """Check 19: 202 with an empty body; parameters of the websocket's URL are tolerated (20)."""
    socket, topic = await connect(version=version), unique()
    await socket.joined(topic)

    answer = post(
        server,
        "?apikey=ignored&vsn=2.0.0",
        json={"messages": [message(topic), message(topic, id="m2"), message(unique())]},
    )

    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert {"x-rate-rolling", "x-rate-limit", "x-rate-limit-remaining"} <= set(answer.headers)
    first, second = await socket.expect("broadcast"), await socket.expect("broadcast")
    assert first["form"] == f"text{version}"
    assert first["payload"] == {"type": "broadcast", "event": "e", "payload": {"n": 1}}
    assert second["payload"]["meta"] == {"id": "m2"}
    await socket.silence()


@pytest.mark.parametrize(
    "headers",
    [{}, {"apikey": "garbage"}, {"authorization": "Bearer garbage"}, {"authorization": "Basic x"}],
)
def test_without_a_valid_key_nothing_is_accepted(server: Server, headers: dict[str, str]) -> None:
    """Check 19: 401; the key in the URL does not count."""
    answer = post(server, f"?apikey={PUBLISHABLE}", headers=headers, json={"messages": []})

    assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized"})


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, ["can't be blank"]),
        ({"messages": []}, ["can't be blank"]),
        ({"messages": "text"}, ["is invalid"]),
        (
            {"messages": [{}]},
            [
                {
                    "topic": ["can't be blank"],
                    "payload": ["can't be blank"],
                    "event": ["can't be blank"],
                }
            ],
        ),
        (
            {"messages": [message("t"), {"topic": 1, "event": "e", "payload": "text"}]},
            [{}, {"topic": ["is invalid"], "payload": ["is invalid"]}],
        ),
        (
            {"messages": [message("t", payload={"x": "y" * 3_000_501})]},
            [{"payload": ["Payload size exceeds tenant limit"]}],
        ),
    ],
)
def test_a_bad_batch_names_every_field(server: Server, body: Any, errors: Any) -> None:
    """Check 19: 422, and nothing of the batch is sent."""
    answer = post(server, json=body)

    assert (answer.status_code, answer.json()) == (422, {"errors": {"messages": errors}})


async def test_a_private_message_needs_the_right_to_write(
    connect: Any, server: Server, grant: Any
) -> None:
    """Check 19: 202 either way, so that nobody learns which topics exist."""
    socket, topic = await connect(key=SECRET_KEY), unique()
    grant(topic, ADA)
    await socket.joined(topic, private=True)
    body = {"messages": [message(topic, private=True)]}

    denied = post(server, headers={"authorization": f"Bearer {token(EVE)}"}, json=body)
    await socket.silence()
    allowed = post(server, headers={"authorization": f"Bearer {token(ADA)}"}, json=body)

    assert (denied.status_code, allowed.status_code) == (202, 202)
    await socket.expect("broadcast")
    await socket.silence()


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [(b'{"n": 1}', "application/json", {"n": 1}), (b"\x00\xff", "application/octet-stream", None)],
)
async def test_a_single_message_travels_in_binary(
    connect: Any, server: Server, content: bytes, kind: str, expected: Any
) -> None:
    """Check 19: version 1 gets JSON as text and bytes not at all; no metadata."""
    topic = f"täglich/{unique()}"
    old, new = await connect(version=1), await connect(version=2)
    await old.joined(topic)
    await new.joined(topic)
    quoted = topic.replace("/", "%2F").replace("ä", "%C3%A4")

    answer = post(
        server,
        f"/{quoted}/events/new%20one",
        headers={**KEY, "content-type": kind},
        content=content,
    )

    assert answer.status_code == 202
    frame = await new.expect("broadcast")
    assert frame["form"] == "binary"
    assert frame["payload"]["event"] == "new one"
    assert frame["payload"]["payload"] == (expected or content)
    assert "meta" not in frame["payload"]
    if expected is None:
        await old.silence()
    else:
        assert (await old.expect("broadcast"))["payload"]["payload"] == expected


async def test_a_denied_single_message_is_403(connect: Any, server: Server, grant: Any) -> None:
    """Check 19: the single endpoint does say so."""
    socket, topic = await connect(key=SECRET_KEY), unique()
    grant(topic, ADA)
    await socket.joined(topic, private=True)
    path = f"/{topic}/events/e?private=true"

    denied = post(server, path, headers={"authorization": f"Bearer {token(EVE)}"}, json={})
    allowed = post(server, path, headers={"authorization": f"Bearer {token(ADA)}"}, json={})

    assert (denied.status_code, denied.json()) == (403, {"message": "Unauthorized"})
    assert allowed.status_code == 202
    await socket.expect("broadcast")
    await socket.silence()


def test_another_content_type_is_415(server: Server) -> None:
    """§6: only JSON and bytes."""
    headers = {**KEY, "content-type": "text/plain"}

    answer = post(server, "/t/events/e", headers=headers, content=b"x")

    assert answer.status_code == 415
    assert "Use application/json or application/octet-stream" in answer.json()["error"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"NaN", b'"\\ud800"'])
def test_broken_json_is_400(server: Server, content: bytes) -> None:
    """Never a 500 for bad input."""
    headers = {**KEY, "content-type": "application/json"}

    assert post(server, headers=headers, content=content).status_code == 400
    assert post(server, "/t/events/e", headers=headers, content=content).status_code == 400


def test_above_the_rate_the_answer_is_429(start_server: Callable[..., Server]) -> None:
    """§6: a batch too large for what is left, and a rate already exceeded."""
    slow = start_server(messages_per_second=2, rate_window_seconds=2)

    too_many = post(slow, json={"messages": [message("t")] * 3})
    fits = post(slow, json={"messages": [message("t")] * 2})
    for _ in range(200):  # until the next tick
        over = post(slow, "/t/events/e", json={})
        over = post(slow, json={"messages": [message("t")] * 2})
        if over.status_code == 429:
            break

    assert (too_many.status_code, fits.status_code, over.status_code) == (429, 202, 429)
    assert too_many.json()["message"].startswith("Too many messages to broadcast")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/realtime/v1/api/broadcast", 405),
        ("OPTIONS", "/realtime/v1/api/broadcast", 204),
        ("POST", "/realtime/v1/api/other", 404),
        ("GET", "/", 404),
        ("GET", "/realtime/v1/websocket", 426),
    ],
)
def test_other_requests_get_their_status(
    server: Server, method: str, path: str, status: int
) -> None:
    """A gateway or a browser's preflight must not hang."""
    assert httpx.request(method, f"{server.http}{path}", headers=KEY).status_code == status


def test_a_connection_serves_many_requests(server: Server) -> None:
    """Keep-alive and chunked bodies, as a gateway sends them."""
    with httpx.Client(base_url=server.http, headers=KEY) as client:
        for _ in range(20):
            assert client.get("/realtime/v1/health").status_code == 200
            chunks = iter([b'{"messages": [{"topic": "t", "event":', b'"e", "payload": {}}]}'])
            answer = client.post(
                "/realtime/v1/api/broadcast",
                content=chunks,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == 202


async def test_the_javascript_client_sends_over_http(
    connect: Any, server: Server, js: JavaScript
) -> None:
    """Check 20: httpSend, and send() on a channel that is not joined."""
    socket, topic = await connect(), unique()
    await socket.joined(topic)
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE)
    await js.call("open", client="c", channel="c", topic=topic)

    explicit = await js.call("httpSend", channel="c", event="explicit", payload={"n": 1})
    fallback = await js.call("send", channel="c", event="fallback", payload={"n": 2})

    assert explicit["success"] is True
    assert fallback == "ok"
    got = [(await socket.expect("broadcast"))["payload"] for _ in range(2)]
    assert [(m["event"], m["payload"]) for m in got] == [
        ("explicit", {"n": 1}),
        ("fallback", {"n": 2}),
    ]
