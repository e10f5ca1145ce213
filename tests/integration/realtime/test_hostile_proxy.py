"""The hostile wire does what it says, so that tests of clients through it mean something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as websocket_connect

from tests.integration.realtime.support import Server, Socket, unique
from tests.support.hostile_proxy import Faults, HostileProxy

Wire = tuple[HostileProxy, Socket, Socket, str]
#: An event that no fault touches.
MARK = "the end"


def spare_marks(data: bytes) -> bool:
    return MARK.encode() in data


@pytest.fixture
async def through(server: Server, connect: Any) -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """A receiver behind the proxy, an honest sender, and their topic."""
    proxies: list[HostileProxy] = []
    sockets: list[Socket] = []

    async def build(faults: Faults) -> Wire:
        proxy = HostileProxy(server.port)
        proxies.append(proxy)
        await proxy.start()
        url = server.websocket_url().replace(str(server.port), str(proxy.port))
        receiver = Socket(await websocket_connect(url), 2)
        sockets.append(receiver)
        sender, topic = await connect(), unique()
        await receiver.joined(topic)
        await sender.joined(topic)
        proxy.faults = faults
        return proxy, receiver, sender, topic

    yield build
    for socket in sockets:
        socket.connection.transport.abort()  # a half-open wire would never answer a close
    for proxy in proxies:
        await proxy.stop()


async def send(sender: Socket, topic: str, count: int) -> None:
    """Send numbers, and two marks behind them: the first may be swapped with the last number."""
    for n in range(count):
        await sender.broadcast(topic, "n", {"n": n})
    for _ in range(2):
        await sender.broadcast(topic, MARK, {})


async def numbers(receiver: Socket) -> list[int]:
    """What came before the second mark."""
    got: list[int] = []
    marks = 0
    while marks < 2:
        payload = (await receiver.expect("broadcast"))["payload"]
        if payload["event"] == MARK:
            marks += 1
        else:
            got.append(payload["payload"]["n"])
    return got


async def test_late_messages_pass_in_order(through: Any, server: Server) -> None:
    """Messages both ways, late but in order, heartbeats, and plain HTTP."""
    proxy, receiver, sender, topic = await through(Faults(delay_seconds=(0.001, 0.01)))

    await send(sender, topic, 50)

    assert await numbers(receiver) == list(range(50))
    assert await receiver.is_alive()
    async with httpx.AsyncClient(base_url=proxy.url) as client:
        assert (await client.get("/realtime/v1/health")).status_code == 200


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop=0.3, spare=spare_marks),
        Faults(duplicate=0.3, spare=spare_marks),
        Faults(reorder=0.3, reorder_seconds=60, spare=spare_marks),
    ],
    ids=["dropped", "doubled", "swapped"],
)
async def test_messages_are_spoiled(through: Any, faults: Faults) -> None:
    """As many as it counts: the rest stays in order, and none is lost that was not dropped."""
    proxy, receiver, sender, topic = await through(faults)

    await send(sender, topic, 100)
    got = await numbers(receiver)

    assert len(got) == 100 - proxy.done["dropped"] + proxy.done["duplicated"]
    assert (got == sorted(got)) is (faults.reorder == 0)
    assert (len(set(got)) == 100) is (faults.drop == 0)
    assert 10 <= sum(proxy.done[kind] for kind in ("dropped", "duplicated", "reordered")) <= 60


async def test_the_connection_is_cut(through: Any) -> None:
    """By a reset, as of a crashed router."""
    proxy, receiver, sender, topic = await through(Faults(cut=1))

    await sender.broadcast(topic, "n", {"n": 0})
    await receiver.connection.wait_closed()

    assert proxy.done["cut"] == 1
    assert receiver.connection.close_code == 1006


async def test_a_half_open_connection_looks_alive_and_is_not(through: Any) -> None:
    """Nothing passes either way; only an unanswered heartbeat can tell."""
    proxy, receiver, sender, topic = await through(Faults())

    proxy.half_open()
    await send(sender, topic, 3)
    await receiver.push("phoenix", "heartbeat", {})

    await receiver.silence()
    assert receiver.connection.close_code is None
    assert await sender.is_alive()
