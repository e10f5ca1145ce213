"""Both clients say `live` only while they are: over a wire that is cut or goes half-open."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.e2e.console.worker import HandWorker
from tests.e2e.live.clients import CLIENTS, PATIENCE, Said, history
from tests.support.hostile_proxy import Faults, HostileProxy
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

#: The same impatience for both, in seconds.
HEARTBEAT, FIRST_SILENCE, SILENCE = 1.0, 0.5, 2.0
TIMING = {"polling_interval": 0.5, "silence": SILENCE, "first_silence": FIRST_SILENCE}
#: A heartbeat may just have been answered, the next one is waited for, and the machine may be busy.
BOUND = 2 * HEARTBEAT + PATIENCE
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
            await said.until(lambda freshness, _: freshness == "live")
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
    # from the beginning: a socket that has brought one message late is not taken for a dead one
    wire.faults = Faults(drop=1, spare=lambda data: b"job." not in data)
    async with client(stack, wire.url, "job", job, heartbeat=HEARTBEAT, **TIMING) as said:
        await said.until(lambda freshness, last: freshness == "live" and last == 2)

        # a busy machine may have answered a heartbeat late: a new socket is trusted once more
        await report_until(said, worker, lease, "polling", "unheard")
        wire.faults = Faults()
        await report_until(said, worker, lease, "live", "heard")
        await asyncio.to_thread(worker.settle, lease)

    assert said.told == await asyncio.to_thread(history, stack, job)


async def report_until(
    said: Said, worker: HandWorker, lease: dict[str, Any], freshness: str, line: str
) -> None:
    """Report, and report again, until all was told and the watcher says that it is so fresh."""
    for percentage in range(1, 20):
        known = len(said.told)
        await asyncio.to_thread(worker.report, lease, percentage, line)
        await said.until(partial(has_told, known + 2), SILENCE + BOUND)
        with suppress(TimeoutError):
            await said.until(lambda state, _: state == freshness, 10)
            return
    raise AssertionError(f"never {freshness}: {said.states}")


def has_told(wanted: int, _: str, told: int) -> bool:
    """Whether so many events were told."""
    return told >= wanted
