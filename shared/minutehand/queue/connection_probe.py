"""Checks which features the address in DATABASE_URL supports.

A pooler in transaction mode may listen on any port. With a pooler in transaction mode, settings of
one client affect other clients, and notifications are lost.
"""

import asyncio
import math
import secrets
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from minutehand.queue.credentials import WORKER_ROLE

#: Text that suggests how to change an address that libpq rejects.
PARAMETERS = "the address without Prisma's parameters, e.g. ?pgbouncer=true and ?schema=public"
#: Maximum seconds for the whole check of an address, and for a notification to arrive.
PROBE_SECONDS = 5.0
NOTIFY_SECONDS = 1.0
#: Order of queries on two connections. The results of the queries show whether each connection has
#: its own session on the server.
_ORDER = (0, 1, 1, 0, 0, 1)

Session = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, kw_only=True)
class AddressProbe:
    """Features that the address of a database supports.

    Attributes:
        error: Reason why the address did not respond. If the address did not respond, all features
            are false.
        libpq_error: Reason why libpq rejects the address, for example a parameter for Prisma only.
        sessions: True if each connection has its own session. If connections share sessions, the
            check ends, because the check's settings would affect other clients.
        notifications: True if a session that listens receives notifications.
        role: True if the database user may switch to the worker's role.
    """

    error: str | None = None
    libpq_error: str | None = None
    sessions: bool = False
    notifications: bool = False
    role: bool = False

    @property
    def fault(self) -> tuple[str, str] | None:
        """Reason why a worker cannot use the address, as the end of a sentence, and a fix."""
        if self.libpq_error is not None:
            return f"must be an address as libpq reads it: {self.libpq_error}", PARAMETERS
        if self.error is not None:
            fix = "correct DATABASE_URL, or start the database"
            return f"does not respond: {self.error}", fix
        if not self.sessions:
            return (
                "is a pooler in transaction mode, whose sessions other clients share",
                "session mode or a direct connection; at Supabase, an address with port 5432",
            )
        if not self.role:
            reason = f"logs in as a role that may not become {WORKER_ROLE}"
            return reason, f"grant {WORKER_ROLE} to that role"
        return None

    @property
    def log_fields(self) -> dict[str, bool]:
        """The supported features by name, for logs."""
        names = ("sessions", "notifications", "role")
        return {name: getattr(self, name) for name in names}


def is_invalid_address(error: psycopg.Error) -> bool:
    """Return whether libpq rejected the address before it connected to a server."""
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


async def probe(url: str) -> AddressProbe:
    """Check an address. The check takes some milliseconds, and at most `PROBE_SECONDS`."""
    try:
        async with (
            asyncio.timeout(PROBE_SECONDS),
            await _connect(url) as first,
            await _connect(url) as second,
        ):
            if not await _sessions_are_private(first, second):
                return AddressProbe()
            return AddressProbe(
                sessions=True,
                notifications=await _notifies(first, second),
                role=await _takes_role(first),
            )
    except TimeoutError:
        return AddressProbe(error=f"no answer within {PROBE_SECONDS:g} s")
    except psycopg.Error as error:
        if is_invalid_address(error):
            return AddressProbe(libpq_error=str(error).strip())
        return AddressProbe(error=(str(error).strip().splitlines() or [type(error).__name__])[0])


async def probe_until_up(url: str, *, max_seconds: float = math.inf) -> AddressProbe:
    """Check an address until the database responds, for up to `max_seconds`."""
    loop = asyncio.get_running_loop()
    until, delay = loop.time() + max_seconds, 0.25
    while True:
        address = await probe(url)
        if address.error is None or loop.time() + delay > until:
            return address
        await asyncio.sleep(delay)
        delay = min(5.0, 2 * delay)


async def _connect(url: str) -> Session:
    # prepare no statements, because prepared statements of a pooled session affect other clients
    url = make_conninfo(url, connect_timeout=3)
    return await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)


async def _sessions_are_private(*connections: Session) -> bool:
    pids: tuple[set[int], ...] = tuple(set() for _ in connections)
    for number in _ORDER:
        cursor = await connections[number].execute("select pg_backend_pid()")
        [(pid,)] = await cursor.fetchall()
        pids[number].add(pid)
    return all(len(seen) == 1 for seen in pids) and pids[0].isdisjoint(pids[1])


async def _notifies(listener: Session, notifier: Session) -> bool:
    channel = f"minutehand_probe_{secrets.token_hex(8)}"
    try:
        await listener.execute(f"listen {channel}".encode())
        await notifier.execute(f"notify {channel}".encode())
    except psycopg.Error:  # the server may be a standby, for example
        return False
    async for _ in listener.notifies(timeout=NOTIFY_SECONDS, stop_after=1):
        return True
    return False


async def _takes_role(connection: Session) -> bool:
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(f"set local role {WORKER_ROLE}".encode())
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue):
        return False  # the user may not switch to the role, or the role does not exist
    return True
