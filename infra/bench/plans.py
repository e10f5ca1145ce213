"""`python -m infra.bench.plans [NAME …] [--state DIR]`: load on the plans app of a running stack.

Everything goes through HTTP as a guest, as a stranger would. It prints a table, and exits with 1
when something was lost, doubled, out of order or missing. Times are printed, not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from minutehand.clock import SystemClock
from minutehand.terminal.connection import read_env_file
from minutehand.web.hub import EventHub
from minutehand.web.sse import Batch, Line, Pace, Reader, Stream

PROMPT = (
    "Build a booking app with 8 screens and 2 integrations by 30 June 2099. Three developers at"
    " 500 EUR a day, budget 60,000 EUR."
)
SPEEDS = ("fast_but_skip_details", "balanced_speed_and_detail", "all_details_but_slow")
LAST = ("plan_completed", "plan_failed", "plan_cancelled", "plan_deleted")
Row = tuple[str, str, bool]


class Client:
    """The API as a guest uses it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.opened = self.refused = 0

    async def create(self, speed: str = SPEEDS[0], prompt: str = PROMPT) -> str:
        """Create a plan; its id."""
        body = {"prompt": prompt, "speed_vs_detail": speed}
        answer = await self.http.post("/api/plans", json=body)
        answer.raise_for_status()
        plan_id: str = answer.json()["plan_id"]
        return plan_id

    async def delete(self, plan_id: str) -> int:
        """Delete a plan; the status."""
        return (await self.http.delete(f"/api/plans/{plan_id}")).status_code

    async def follow(
        self, plan_id: str, *, opened: asyncio.Event | None = None
    ) -> list[dict[str, Any]]:
        """What a stream brings, as EventSource reads it: again after a cut, until the end."""
        events: list[dict[str, Any]] = []
        while True:
            headers = {"Accept": "text/event-stream"}
            if events:
                headers["Last-Event-ID"] = str(events[-1]["seq"])
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                async with self.http.stream(
                    "GET", f"/api/plans/{plan_id}/stream", headers=headers
                ) as answer:
                    self.opened += 1
                    if opened is not None:
                        opened.set()
                    if answer.status_code != 200:
                        self.refused += answer.status_code not in {204, 404}
                        return events
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            events.append(json.loads(line[6:]))
            if events and events[-1]["type"] in LAST:
                return events


def whole(events: list[dict[str, Any]], *lasts: str) -> bool:
    """Whether events are numbered from 1 without a gap, and end as they should."""
    numbers = [event["seq"] for event in events]
    return numbers == list(range(1, len(numbers) + 1)) and events[-1]["type"] in (lasts or LAST)


async def readiness(client: Client) -> list[Row]:
    """A thousand creations, each asked for its stream right after."""

    async def ask(number: int) -> bool:
        async with gate:
            plan = await client.create(prompt=f"Plant tree number {number}")
            answer = await client.http.get(f"/api/plans/{plan}/stream-status")
            ready: bool = answer.json() == {"status": "ready", "ready": True}
            await client.delete(plan)
            return ready

    gate = asyncio.Semaphore(20)
    began = time.monotonic()
    answers = await asyncio.gather(*(ask(number) for number in range(1_000)))
    took = time.monotonic() - began
    return [("ready at once", f"{sum(answers)} of 1000, {took:.1f} s", all(answers))]


async def crowd(client: Client) -> list[Row]:
    """Ten workers with a hundred creations each; all streams stay open until all are deleted."""
    following: dict[str, asyncio.Task[list[dict[str, Any]]]] = {}

    async def worker() -> None:
        for _ in range(100):
            plan = await client.create(prompt="Paint one wall")
            opened = asyncio.Event()
            following[plan] = asyncio.create_task(client.follow(plan, opened=opened))
            await opened.wait()

    async def remove(plan: str) -> None:
        async with gate:
            await client.delete(plan)

    gate = asyncio.Semaphore(20)
    began = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(10)))
    opened_in = time.monotonic() - began
    await asyncio.gather(*(remove(plan) for plan in following))
    seen = await asyncio.gather(*following.values())
    good = sum(bool(events) and whole(events) for events in seen)
    text = f"{good} of 1000 whole, all open after {opened_in:.1f} s"
    return [("10 workers x 100 creations, a stream each", text, good == 1000)]


async def together(client: Client) -> list[Row]:
    """1 to 50 plans at once, and one at each level of detail; every stream alive to its end."""
    rows: list[Row] = []
    sizes = [
        *((1, speed) for speed in SPEEDS),
        *((number, SPEEDS[1]) for number in (5, 10, 20, 50)),
    ]
    for number, speed in sizes:
        began = time.monotonic()
        plans = await asyncio.gather(*(client.create(speed) for _ in range(number)))
        seen = await asyncio.gather(*(client.follow(plan) for plan in plans))
        took = time.monotonic() - began
        good = sum(whole(events, "plan_completed") for events in seen)
        text = f"{took:.2f} s, {took / number:.3f} s each, {good} streams whole"
        rows.append((f"{number} at once, {speed}", text, good == number))
        await asyncio.gather(*(client.delete(plan) for plan in plans))
    return rows


class Clockwork:
    """A feed with an event at every look, for so many of them."""

    topic = "session:simulated"
    position = None

    def __init__(self, events: int) -> None:
        self._left = events

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """One event more."""
        self._left -= 1
        line = Line(str(self._left), "log", {"message": "x" * 200})
        return Batch([line], end="completed" if self._left == 0 else None)

    async def check(self) -> Batch:
        """Nothing beside the reading."""
        return Batch()

    def absorb(self, frames: Any) -> Batch | None:
        """Nothing is kept for others."""
        return None


async def memory(_: Client) -> list[Row]:
    """Two hours of a stream with an event a second, as fast as it goes."""
    pace = Pace(streaming=True, poll=0, breath=0)
    until = datetime.now(UTC) + timedelta(days=1)
    reader = Reader(token=None, expires_at=until, began_at=time.monotonic())
    feed = Clockwork(7_200)
    stream = Stream(feed, EventHub(), reader=reader, pace=pace, clock=SystemClock())
    tracemalloc.start()
    sizes, count = [], 0
    async for _chunk in stream.chunks(await feed.read()):
        count += 1
        if count % 1_200 == 0:
            sizes.append(tracemalloc.get_traced_memory()[0] // 1024)
    tracemalloc.stop()
    flat = max(sizes) - min(sizes) < 256
    return [("two hours of streaming", f"{count} events, KiB held: {sizes}", flat)]


async def main(options: argparse.Namespace) -> int:
    """Run what was chosen; print the table."""
    limits = httpx.Limits(max_connections=None)
    runs: dict[str, Callable[[Client], Awaitable[list[Row]]]] = {
        "ready": readiness, "crowd": crowd, "together": together, "memory": memory,
    }  # fmt: skip
    good = True
    api = read_env_file(Path(options.state) / "env")["API_URL"]
    async with httpx.AsyncClient(base_url=api, timeout=120, limits=limits, trust_env=False) as http:
        client = Client(http)
        for name in options.names or runs:
            for what, seen, fine in await runs[name](client):
                good = good and fine
                print(f"| {what} | {seen} | {'ok' if fine else 'FAILED'} |", flush=True)
    rate = 100 * (1 - client.refused / max(1, client.opened))
    print(
        f"| streams opened | {client.opened}, {rate:.2f} % | {'ok' if rate == 100 else 'FAILED'} |"
    )
    return 0 if good and rate == 100 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m infra.bench.plans", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--state", default=".local", help="the running stack's folder")
    raise SystemExit(asyncio.run(main(parser.parse_args())))
