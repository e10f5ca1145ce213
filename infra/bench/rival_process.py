"""The rival of `infra.bench.rival`, in a process of its own until it is stopped.

Its client is not part of what is measured, so it yields the processor to everything else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random

from infra.bench.person import Person
from infra.bench.rival_attacks import ATTACKS, Attack, mix
from minutehand.local.users import EVE, GLOBEX
from minutehand.queue.errors import QueueError

AT_ONCE = 4


async def attack_with(rival: Person, attack: Attack, seed: int) -> None:
    """Play one attack; a quota or a limit of the rival's own ends it."""
    requests = attack(Random(seed), str(GLOBEX), "bench_noop", 2000)
    answer = None
    with suppress(QueueError, StopIteration):
        while True:
            match requests.send(answer):
                case list() as several:
                    calls = (rival.call(name, **given) for name, given in several)
                    await asyncio.gather(*calls, return_exceptions=True)
                    answer = None
                case function, arguments:
                    answer = await rival.call(function, **arguments)


async def keep_attacking(rival: Person, number: int, names: Sequence[str]) -> None:
    """Play one mix after the other."""
    while True:
        for attack in mix(number, names):
            await attack_with(rival, attack, number)
        number += AT_ONCE


async def main(environment: Mapping[str, str], seed: int, names: Sequence[str]) -> None:
    """Play mixes of these attacks, four at a time."""
    rival = Person(environment["SUPABASE_URL"], str(EVE.id))
    async with asyncio.TaskGroup() as attacks:
        for number in range(AT_ONCE):
            attacks.create_task(keep_attacking(rival, seed + number, names))


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(main(os.environ, int(sys.argv[1]), sys.argv[2:] or sorted(ATTACKS)))
