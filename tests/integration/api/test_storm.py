"""A short storm over a whole stack; `python -m infra.bench.storm` lets one rage for minutes."""

from __future__ import annotations

import asyncio

import pytest

from infra.bench.storm import Storm, ask
from tests.support.stacks import RunningStack
from tests.support.weekly import weekly


@pytest.mark.slow
@pytest.mark.weekly
async def test_every_route_answers_after_a_storm(stack: RunningStack) -> None:
    """Streams opened and left, locked tables, a Data API that hangs, bodies that trickle."""
    values = {**stack.values, "STATE": str(stack.folder)}
    storm = Storm(values, weekly(8, otherwise=5), streams=30, bodies=100)

    await storm.run()
    async with asyncio.timeout(60):
        # callers' limits refill, and the Data API has what it was asked while it was frozen
        while refused := {a.route: a.status for a in await ask(values) if a.status >= 400}:  # noqa: ASYNC110
            await asyncio.sleep(1)

    assert storm.opened > 0
    assert storm.locked > 0
    assert storm.frozen > 0
    assert refused == {}
