"""Asks Postgres what a token may do on a private topic, by probing `realtime.messages` under RLS.

Probes run in a transaction that is always rolled back; results are kept by the channel.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from supabase_local.realtime.database import Connection, Database, DatabaseUnavailable, describe
from supabase_local.realtime.serializer import dump
from supabase_local.realtime.tokens import Token, redacted

logger = logging.getLogger(__name__)

_SET_ROLE = """
  select set_config('role', %(role)s, true)
  where %(role)s <> 'none'
    and (
      not exists (select from pg_catalog.pg_roles where rolname = 'authenticator')
      or pg_catalog.pg_has_role('authenticator', %(role)s, 'member')
    )
"""
MISSING_PARTITION = "MissingPartition: Realtime was unable to find the expected messages partition"


class Authorizer:
    """Runs the probes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, token: Token, topic: str, headers: Mapping[str, str]) -> bool:
        """Whether the token may read broadcasts of `topic`.

        Raises:
            DatabaseUnavailable: The database is unavailable, or has no partition for today.
        """
        probe = str(uuid.uuid4())
        try:
            async with self._database.transaction() as connection:
                await self._insert_probe(connection, topic, probe)
                await _become(connection, token, topic, headers)
                cursor = await connection.execute(
                    "select from realtime.messages where id = %s", [probe]
                )
                return await cursor.fetchone() is not None
        except psycopg.Error as error:
            _log_refusal(topic, error)
            return False

    async def write(self, token: Token, topic: str, headers: Mapping[str, str]) -> bool:
        """Whether the token may send broadcasts to `topic`."""
        try:
            async with self._database.transaction() as connection:
                await _become(connection, token, topic, headers)
                await connection.execute(
                    "insert into realtime.messages (topic, extension) values (%s, 'broadcast')",
                    [topic],
                )
        except psycopg.Error as error:
            if error.sqlstate != "42501":
                _log_refusal(topic, error)
            return False
        return True

    async def _insert_probe(self, connection: Connection, topic: str, probe: str) -> None:
        try:
            await connection.execute(
                "insert into realtime.messages (topic, extension, id) values (%s, 'broadcast', %s)",
                [topic, probe],
            )
        except psycopg.errors.CheckViolation as error:
            raise DatabaseUnavailable(MISSING_PARTITION) from error


async def _become(
    connection: Connection, token: Token, topic: str, headers: Mapping[str, str]
) -> None:
    # `none` would mean the server's own rights, and a token may claim only what the Data API allows
    cursor = await connection.execute(_SET_ROLE, {"role": token.role})
    if await cursor.fetchone() is None:
        raise psycopg.errors.InsufficientPrivilege(f"role {token.role!r} may not be claimed")
    settings = {
        "realtime.topic": topic,
        "request.jwt.claims": dump(dict(token.claims)),
        "request.jwt.claim.sub": str(token.claims.get("sub") or ""),
        "request.jwt.claim.role": token.role,
        "request.headers": dump(dict(headers)),
    }
    calls = sql.SQL(", ").join(sql.SQL("set_config(%s, %s, true)") for _ in settings)
    values: list[Any] = [part for pair in settings.items() for part in pair]
    await connection.execute(sql.SQL("select {}").format(calls), values)


def _log_refusal(topic: str, error: psycopg.Error) -> None:
    logger.warning(
        "a policy could not be evaluated",
        extra={
            "event": "realtime.policy_failed",
            "topic": redacted(topic),
            "sqlstate": error.sqlstate,
            "reason": describe(error),
        },
    )
