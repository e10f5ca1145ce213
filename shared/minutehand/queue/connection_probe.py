"""What a database's address keeps for its caller: asked of it, never read from its text.

A pooler in transaction mode may listen at any port. What one caller sets there is the next one's,
and notifications get lost.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from minutehand.queue.credentials import WORKER_ROLE

#: Longest time for all questions, and for a notification to arrive.
ASK_SECONDS: Final = 5.0
NOTIFY_SECONDS: Final = 1.0
#: Turns of two connections: of one server's session each, or of whichever is free.
_TURNS: Final = (0, 1, 1, 0, 0, 1)

Session = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The answers of one address.

    Attributes:
        problem: Why it did not answer; the others are then unknown, and false.
        sessions: Each connection has a session of its own, with its prepared statements. Where it
            has none, nothing else is asked: what would be left there is others'.
        notifications: A session that listens is notified.
        role: It may become the worker's role.
    """

    problem: str | None = None
    sessions: bool = False
    notifications: bool = False
    role: bool = False

    @property
    def lacks(self) -> str | None:
        """What a worker needs and does not have there, in a sentence's end; None: nothing."""
        if self.problem is not None:
            return f"does not answer: {self.problem}"
        if not self.sessions:
            return "is a pooler in transaction mode: its sessions are shared with others"
        if not self.role:
            return f"signs in a role that may not become {WORKER_ROLE}"
        return None

    @property
    def fix(self) -> str:
        """What mends that."""
        if self.problem is not None:
            return "correct DATABASE_URL, or start the database"
        if not self.sessions:
            return "session mode or a direct connection; of Supabase's addresses those with 5432"
        return f"grant {WORKER_ROLE} to that role"

    @property
    def facts(self) -> dict[str, bool]:
        """By name, for a log."""
        names = ("sessions", "notifications", "role")
        return {name: getattr(self, name) for name in names}


async def ask(url: str) -> Address:
    """Ask an address what it keeps; some milliseconds, `ASK_SECONDS` at most."""
    try:
        async with (
            asyncio.timeout(ASK_SECONDS),
            await _connect(url) as first,
            await _connect(url) as second,
        ):
            if not await _have_own_sessions(first, second):
                return Address()
            return Address(
                sessions=True,
                notifications=await _notifies(first, second),
                role=await _takes_role(first),
            )
    except TimeoutError:
        return Address(problem=f"no answer within {ASK_SECONDS:g} s")
    except psycopg.Error as error:
        return Address(problem=(str(error).strip().splitlines() or [type(error).__name__])[0])


async def ask_again(url: str, *, within: float = math.inf) -> Address:
    """Ask, and again after pauses that grow while it does not answer, for so many seconds."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + within, 0.25
    while True:
        address = await ask(url)
        if address.problem is None or loop.time() + pause > until:
            return address
        await asyncio.sleep(pause)
        pause = min(5.0, 2 * pause)


async def _connect(url: str) -> Session:
    # prepares nothing: a name that a pooler keeps is met by others
    url = make_conninfo(url, connect_timeout=3)
    return await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)


async def _have_own_sessions(*connections: Session) -> bool:
    pids: tuple[set[int], ...] = tuple(set() for _ in connections)
    for turn in _TURNS:
        cursor = await connections[turn].execute("select pg_backend_pid()")
        [(pid,)] = await cursor.fetchall()
        pids[turn].add(pid)
    return all(len(each) == 1 for each in pids) and pids[0].isdisjoint(pids[1])


async def _notifies(listener: Session, notifier: Session) -> bool:
    channel = f"minutehand_asks_{secrets.token_hex(8)}"
    try:
        await listener.execute(f"listen {channel}".encode())
        await notifier.execute(f"notify {channel}".encode())
    except psycopg.Error:  # as of a standby
        return False
    async for _ in listener.notifies(timeout=NOTIFY_SECONDS, stop_after=1):
        return True
    return False


async def _takes_role(connection: Session) -> bool:
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"set local role {WORKER_ROLE}".encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):
        return False  # it may not, or there is no such role
    return True
