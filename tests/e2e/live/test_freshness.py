"""Both clients say `live` only while they are: over a wire that is cut or goes half-open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.console.worker import HandWorker
from tests.e2e.live.clients import CLIENTS, history
from tests.support.hostile_proxy import Faults, HostileProxy
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

#: The same impatience for both, in seconds.
HEARTBEAT, FIRST_SILENCE, SILENCE = 1.0, 0.5, 2.0
TIMING = {"polling_interval": 0.5, "silence": SILENCE, "first_silence": FIRST_SILENCE}
#: A heartbeat may just have been answered, the next one is waited for, and the machine may be busy.
BOUND = 2 * HEARTBEAT + 60
#: The check after a join, its verdict, and the check after that.
STEADY = 2 * FIRST_SILENCE + SILENCE


@pytest.mark.parametrize("trouble", ["cut", "half_open"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_live_is_left_when_the_wire_dies_and_said_again_when_it_is_back(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, client: Any, trouble: str
) -> None:
    """No news is needed to notice it, and what was missed does not make the new wire suspect."""
    job = await asyncio.to_thread(worker.enqueue)
    [lease] = await asyncio.to_thread(worker.lease, 1, lease_seconds=600)
    async with client(stack, wire.url, "job", job, heartbeat=HEARTBEAT, **TIMING) as said:
        await said.until(lambda freshness, last: freshness == "live" and last == 2)

        wire.closed = True
        wire.cut() if trouble == "cut" else wire.half_open()
        await said.until(lambda freshness, _: freshness != "live", BOUND)
        await asyncio.to_thread(worker.report, lease, 10, "unheard")
        wire.closed = False
        for _ in range(20):
            # never live again before all is known
            await said.until(lambda freshness, _: freshness == "live")
            back, sockets = len(said.states) - 1, wire.websockets
            await asyncio.sleep(STEADY)
            since = said.states[back:]
            if wire.websockets == sockets:
                break  # else a busy machine answered a heartbeat late: look at the next socket
        await asyncio.to_thread(worker.settle, lease)

    truth = await asyncio.to_thread(history, stack, job)
    assert since == [("live", 4)]
    assert said.told == truth


@pytest.mark.parametrize("client", CLIENTS)
async def test_live_is_left_when_a_joined_socket_brings_nothing(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, client: Any
) -> None:
    """Everything but the messages passes: a read in silence finds out, and it polls."""
    job = await asyncio.to_thread(worker.enqueue)
    [lease] = await asyncio.to_thread(worker.lease, 1, lease_seconds=600)
    async with client(stack, wire.url, "job", job, heartbeat=HEARTBEAT, **TIMING) as said:
        await said.until(lambda freshness, last: freshness == "live" and last == 2)

        wire.faults = Faults(drop=1, spare=lambda data: b"job." not in data)
        await asyncio.to_thread(worker.report, lease, 10, "unheard")
        await said.until(lambda _, last: last == 4, SILENCE + BOUND)
        await said.until(lambda freshness, _: freshness == "polling", FIRST_SILENCE + BOUND)
        wire.faults = Faults()
        await asyncio.to_thread(worker.report, lease, 20, "heard")
        await said.until(lambda freshness, last: freshness == "live" and last == 6)
        await asyncio.to_thread(worker.settle, lease)

    assert said.told == await asyncio.to_thread(history, stack, job)
