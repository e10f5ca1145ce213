"""Sockets and REST calls reach Realtime through the project's one origin."""

from __future__ import annotations

import json

import httpx
from websockets.sync.client import connect

from tests.support.stacks import RunningStack


def test_a_socket_opens_through_the_gateway_and_hears_its_heartbeat(stack: RunningStack) -> None:
    """supabase-js knows one URL; the upgrade must pass it untouched."""
    url = f"{stack.realtime_url}/websocket?apikey={stack.supabase_publishable_key}&vsn=1.0.0"

    with connect(url) as socket:
        socket.send(
            json.dumps({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "7"})
        )
        answer = json.loads(socket.recv(timeout=60))

    assert (answer["event"], answer["ref"], answer["payload"]["status"]) == ("phx_reply", "7", "ok")


def test_the_rest_endpoint_of_realtime_is_there_too(stack: RunningStack) -> None:
    """A broadcast can be sent without a socket."""
    answer = httpx.post(
        f"{stack.supabase_url}/realtime/v1/api/broadcast",
        headers=stack.headers(apikey=stack.supabase_secret_key),
        json={"messages": [{"topic": "room", "event": "e", "payload": {}, "private": False}]},
    )

    assert answer.status_code == 202
