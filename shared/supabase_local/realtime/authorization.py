"""Asks Postgres what a token may do on a private topic, by probing `realtime.messages` under RLS.

Probes run in a transaction that is always rolled back; results are kept by the channel.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Mapping, Sequence
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


@dataclasses.dataclass(frozen=True, slots=True)
class Rights:
    """What was granted, per extension."""

    broadcast: bool = False
    presence: bool = False

    def __bool__(self) -> bool:
        return self.broadcast or self.presence

    def covers(self, other: Rights) -> bool:
        """Say whether everything in `other` is granted here too."""
        return (self.broadcast or not other.broadcast) and (self.presence or not other.presence)


ALL = Rights(broadcast=True, presence=True)


class Authorizer:
    """Runs the probes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self, token: Token, topic: str, extensions: Sequence[str], headers: Mapping[str, str]
    ) -> Rights:
        """Which extensions of `topic` the token may read.

        Raises:
            DatabaseUnavailable: The database is unavailable, or has no partition for today.
        """
        ids = {extension: str(uuid.uuid4()) for extension in extensions}
        try:
            async with self._database.transaction() as connection:
                await self._insert_probes(connection, topic, ids)
                await _become(connection, token, topic, headers)
                cursor = await connection.execute(
                    "select id::text from realtime.messages where id = any(%s::uuid[])",
                    [list(ids.values())],
                )
                seen = {row[0] for row in await cursor.fetchall()}
        except psycopg.Error as error:
            _log_refusal(topic, error)
            return Rights()
        return Rights(**{extension: probe in seen for extension, probe in ids.items()})

    async def write(
        self, token: Token, topic: str, extension: str, headers: Mapping[str, str]
    ) -> bool:
        """Whether the token may insert a message of `extension` on `topic`."""
        try:
            async with self._database.transaction() as connection:
                await _become(connection, token, topic, headers)
                await connection.execute(
                    "insert into realtime.messages (topic, extension) values (%s, %s)",
                    [topic, extension],
                )
        except psycopg.Error as error:
            if error.sqlstate != "42501":
                _log_refusal(topic, error)
            return False
        return True

    async def _insert_probes(
        self, connection: Connection, topic: str, ids: Mapping[str, str]
    ) -> None:
        try:
            await connection.execute(
                "insert into realtime.messages (topic, extension, id)"
                " select %s, e, i from unnest(%s::text[], %s::uuid[]) as probes (e, i)",
                [topic, list(ids), list(ids.values())],
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
