"""The chat under many sessions at once, against a running stack: `make bench-chat ARGS=…`.

Counts what must be so (nothing refused, no cross-talk, figures equal to the database) and times it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from minutehand.terminal.connection import read_env_file

TOPICS = ("bees", "tides", "lighthouses")
COUNT = (
    "select count(*) filter (where status = 'accepted'),"
    " count(*) filter (where status = 'in_progress') from public.async_work_items"
)


async def load(api: httpx.AsyncClient, database: str, sessions: int) -> bool:
    """Three pieces of work in each of many sessions at once."""
    names = [f"load-{number}-{secrets.token_hex(8)}" for number in range(sessions)]
    began = time.monotonic()
    answers = await asyncio.gather(
        *(
            api.post(
                "/api/chat",
                headers={"x-session-id": name},
                json={"messages": [{"role": "user", "content": f"Research {topic}, case {name}"}]},
            )
            for name in names
            for topic in TOPICS
        )
    )
    accepted = time.monotonic() - began
    own: dict[str, set[str]] = {}
    for answer in answers:
        for item in answer.json().get("work", []):
            own.setdefault(answer.json()["sessionId"], set()).add(item["id"])
    refused = sum(answer.status_code != 202 for answer in answers)
    checks, wrong = await _watch_figures(api, database, names[0])
    took = time.monotonic() - began
    crossed = 0
    for name in names:
        told = (await api.get("/api/async-messages", params={"sessionId": name})).json()
        crossed += {each["workId"] for each in told["messages"]} != own[name]
    print(f"{sessions} sessions x {len(TOPICS)} pieces of work: all accepted in {accepted:.1f} s,")
    print(f"  done in {took:.1f} s; refused {refused}, sessions with cross-talk {crossed}")
    print(f"  queueStatus read {checks} times while counts stood still, wrong {wrong} times")
    return not (refused or crossed or wrong)


async def _watch_figures(api: httpx.AsyncClient, database: str, session: str) -> tuple[int, int]:
    """Compare queueStatus with the database until nothing is under way."""
    checks = wrong = 0
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:

        async def counted() -> tuple[int, int]:
            row = await (await connection.execute(COUNT.encode())).fetchone()
            assert row is not None
            return row[0], row[1]

        while True:
            before = await counted()
            told = (await api.get("/api/async-status", params={"sessionId": session})).json()
            after = await counted()
            if before == after:  # else a figure between the two would be right as well
                checks += 1
                found = (told["queueStatus"]["queued"], told["queueStatus"]["executing"])
                wrong += found != before
            if after == (0, 0):
                return checks, wrong
            await asyncio.sleep(0.2)


async def streams(api: httpx.AsyncClient, count: int) -> bool:
    """Many open streams, one session each; others' reads beside them; events reach their own."""
    names = [f"open-{number}-{secrets.token_hex(8)}" for number in range(count)]
    connected, finished = asyncio.Semaphore(0), asyncio.Semaphore(0)
    heard: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    async def listen(name: str) -> None:
        async with api.stream("GET", "/api/async-events", params={"sessionId": name}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    heard[name].append(event)
                    if event["type"] == "connected":
                        connected.release()
                    elif event["type"] == "work_completed":
                        finished.release()

    quiet = await _reads(api)
    began = time.monotonic()
    tasks = [asyncio.ensure_future(listen(name)) for name in names]
    try:
        async with asyncio.timeout(120):
            for _ in names:
                await connected.acquire()
        opened = time.monotonic() - began
        busy = await _reads(api)
        speaking = names[:: max(1, count // 20)][:20]
        for name in speaking:
            body = {"messages": [{"role": "user", "content": "Research bees"}]}
            answer = await api.post("/api/chat", headers={"x-session-id": name}, json=body)
            answer.raise_for_status()
        async with asyncio.timeout(120):
            for _ in speaking:
                await finished.acquire()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    strange = sum(each["sessionId"] != name for name in names for each in heard[name])
    silent = sum(len(heard[name]) != 1 for name in names if name not in speaking)
    print(
        f"{count} open streams, connected in {opened:.1f} s; strangers' events {strange + silent}"
    )
    print(f"  a read beside them takes {busy:.0f} ms (median), alone {quiet:.0f} ms; none failed")
    return not (strange or silent)


async def _reads(api: httpx.AsyncClient) -> float:
    """Median time of a status read, in ms."""
    took = []
    for _ in range(30):
        began = time.perf_counter()
        answer = await api.get("/api/async-status", params={"sessionId": "someone-else"})
        answer.raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def run(env: dict[str, str], *, sessions: int, open_streams: int) -> bool:
    """Both measurements."""
    limits = httpx.Limits(max_connections=open_streams + 100)
    timeout = httpx.Timeout(60, pool=None)
    async with httpx.AsyncClient(base_url=env["API_URL"], limits=limits, timeout=timeout) as api:
        loaded = await load(api, env["DATABASE_URL"], sessions)
        return await streams(api, open_streams) and loaded


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.chat", description=__doc__)
    parser.add_argument("--env-file", type=Path, default=Path(".local/env"))
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--streams", type=int, default=500)
    given = parser.parse_args()
    env = read_env_file(given.env_file)
    done = asyncio.run(run(env, sessions=given.sessions, open_streams=given.streams))
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
