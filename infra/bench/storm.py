"""`python -m infra.bench.storm [--seconds N]`: callers open streams and leave, then one asks.

A stack of its own; while the storm lasts, streams of three users are opened and left, tables are
locked, the Data API hangs now and then, and 400 bodies trickle in. Exits with 1 when a route
does not answer within a second of the storm's end, or three times as long as before it where the
machine is busy with other things. `--seconds 600` is the ten minutes that a release should stand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg

from infra.bench.scratch import user_token
from infra.bench.streams import stack
from minutehand.local.processes import Identity
from minutehand.local.users import ACME, ADA, BOB, EVE, GLOBEX

STREAMS, SLOW_BODIES = 60, 400
MOST_SECONDS, MOST_RATIO = 1.0, 3.0
USERS = ((ADA, ACME), (BOB, ACME), (EVE, GLOBEX))


def token_of(values: Mapping[str, str], user_id: str) -> str:
    """A user's token of this stack."""
    return user_token(user_id, lifetime_seconds=7200, secret=values["SUPABASE_JWT_SECRET"])


class Storm:
    """Everything at once, until it is over.

    Args:
        values: The stack's environment, and its folder as STATE.
        streams: Callers of each user who open streams and leave.
        bodies: Callers whose bodies come a byte a second.
    """

    def __init__(
        self,
        values: Mapping[str, str],
        seconds: float,
        *,
        streams: int = STREAMS,
        bodies: int = SLOW_BODIES,
    ) -> None:
        self._values = values
        self._over = time.monotonic() + seconds
        self._streams, self._bodies = streams, bodies
        self.opened = self.refused = self.locked = self.frozen = self.trickled = 0

    @property
    def over(self) -> bool:
        """Whether it is."""
        return time.monotonic() >= self._over

    async def run(self) -> None:
        """Let it rage."""
        await asyncio.gather(
            *(self._leave_streams(n) for n in range(self._streams * len(USERS))),
            *(self._trickle() for _ in range(self._bodies)),
            asyncio.to_thread(self._lock_tables),
            self._freeze_data_api(),
        )

    async def _leave_streams(self, number: int) -> None:
        """Open a stream and go without a word, again and again."""
        user, workspace = USERS[number % len(USERS)]
        dice = random.Random(number)
        parts = urlsplit(self._values["API_URL"])
        request = (
            f"GET /api/workspaces/{workspace}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Accept: text/event-stream\r\n"
            f"Authorization: Bearer {token_of(self._values, str(user.id))}\r\n\r\n"
        )
        while not self.over:
            with suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                try:
                    writer.write(request.encode())
                    # some leave before there is an answer
                    async with asyncio.timeout(dice.uniform(0.02, 6)):
                        status = (await reader.readline()).decode()
                        self.opened += " 200 " in status
                        self.refused += " 200 " not in status
                        await asyncio.sleep(dice.uniform(0, 3))
                finally:
                    writer.transport.abort()
            await asyncio.sleep(dice.uniform(0, 1))

    async def _trickle(self) -> None:
        """A body that comes a byte at a time."""
        parts = urlsplit(self._values["API_URL"])
        while not self.over:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
                head = (
                    f"POST /api/jobs HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 5000\r\n"
                )
                writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode())
                for _ in range(20):
                    if self.over:
                        break
                    writer.write(b" ")
                    await writer.drain()
                    self.trickled += 1
                    await asyncio.sleep(1)
                writer.close()

    async def _freeze_data_api(self) -> None:
        """A Data API that answers no request for two seconds."""
        state = json.loads((Path(self._values["STATE"]) / "children.json").read_text())
        found = [Identity(**child).find() for child in state]
        [pid] = [each.pid for each in found if each and "server.mjs" in " ".join(each.cmdline())]
        while not self.over:
            await asyncio.sleep(min(3.0, max(0.0, self._over - time.monotonic())))
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(min(2.0, max(0.0, self._over - time.monotonic())))
            finally:
                os.kill(pid, signal.SIGCONT)
            self.frozen += 1

    def _lock_tables(self) -> None:
        """What a migration or a careless session does."""
        with psycopg.connect(self._values["DATABASE_URL"]) as connection:
            while not self.over:
                for table in ("public.jobs", "public.job_events"):
                    connection.execute(f"lock table {table} in access exclusive mode".encode())
                    self.locked += 1
                    time.sleep(min(3.0, max(0.0, self._over - time.monotonic())))
                    connection.rollback()
                time.sleep(1)


@dataclass(frozen=True)
class Answered:
    """A route's answer."""

    route: str
    status: int
    seconds: float


async def ask(values: Mapping[str, str]) -> list[Answered]:
    """Ask every kind of route once, one after the other."""
    headers = {"Authorization": f"Bearer {token_of(values, str(ADA.id))}"}
    job: dict[str, object] = {
        "workspace_id": str(ACME),
        "job_type": "enrich_account",
        "payload": {"account_id": str(ACME)},
    }
    questions: list[tuple[str, str, dict[str, object] | None]] = [
        ("GET", "/health", None),
        ("GET", "/api/jobs", None),
        ("POST", "/api/jobs", job),
        ("GET", f"/api/workspaces/{ACME}/events", None),
        ("GET", f"/api/workspaces/{ACME}/limits", None),
        ("GET", f"/api/types?workspace_id={ACME}", None),
        ("GET", f"/api/chat/sessions?workspace_id={ACME}", None),
        ("GET", "/api/plans", None),
        ("GET", "/api/health/ready", None),
        ("GET", "/api/openapi.json", None),
    ]
    answers = []
    async with httpx.AsyncClient(
        base_url=values["API_URL"], headers=headers, timeout=60, trust_env=False
    ) as http:
        for method, path, body in questions:
            began = time.perf_counter()
            answer = await http.request(method, path, json=body)
            took = time.perf_counter() - began
            answers.append(Answered(f"{method} {path}", answer.status_code, took))
    return answers


async def run(values: Mapping[str, str], seconds: float) -> bool:
    """The storm between two rounds of questions; whether each was answered in time."""
    await ask(values)  # a first answer may have to make something that stays
    before = await ask(values)
    storm = Storm(values, seconds)
    await storm.run()
    after = await ask(values)
    print(
        f"storm of {seconds:g} s: {storm.opened} streams opened and left, {storm.refused} refused, "
        f"{storm.locked} locks, Data API frozen {storm.frozen} times, {storm.trickled} bytes"
    )
    good = True
    print(f"{'':70}{'before':>10}{'after':>12}")
    for quiet, answer in zip(before, after, strict=True):
        fine = answer.status < 500 and answer.seconds <= max(
            MOST_SECONDS, MOST_RATIO * quiet.seconds
        )
        good = good and fine
        print(
            f"{answer.route:66}{answer.status:>4}{quiet.seconds * 1000:>7.0f} ms"
            f"{answer.seconds * 1000:>9.0f} ms  {'ok' if fine else 'FAILED'}"
        )
    return good


def main() -> int:
    """Start a stack, storm it, ask."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-storm-") as folder,
        stack(Path(folder)) as values,
    ):
        bare = {name: value.strip("'\"") for name, value in values.items()}
        return 0 if asyncio.run(run(bare, options.seconds)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
