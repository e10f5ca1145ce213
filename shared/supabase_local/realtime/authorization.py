"""Rights of a token on a private topic, which the policies of `realtime.messages` define.

Postgres evaluates the policies in a transaction, which is always rolled back. The channel stores
the results.
"""

import logging
import uuid

import psycopg

from supabase_local.realtime.database import Connection, Database, describe
from supabase_local.realtime.serializer import dump
from supabase_local.realtime.tokens import Token

logger = logging.getLogger(__name__)

# reject `none`, because `set role none` would give the token the rights of the server. A token may
# use only a role that the Data API allows.
_BECOME = """
  select set_config('realtime.topic', %(topic)s, true),
    set_config('request.jwt.claims', %(claims)s, true),
    set_config('request.jwt.claim.sub', %(sub)s, true),
    set_config('request.jwt.claim.role', %(role)s, true),
    set_config('role', %(role)s, true)
  where %(role)s <> 'none' and pg_has_role('authenticator', %(role)s, 'member')
"""


async def may_read(database: Database, token: Token, topic: str) -> bool:
    """Return whether a token may read broadcasts of `topic`. May raise DatabaseUnavailable."""
    probe = str(uuid.uuid4())
    try:
        async with database.transaction() as connection:
            await connection.execute(
                "insert into realtime.messages (topic, extension, id) values (%s, 'broadcast', %s)",
                [topic, probe],
            )
            await become(connection, token, topic)
            cursor = await connection.execute(
                "select from realtime.messages where id = %s", [probe]
            )
            return await cursor.fetchone() is not None
    except psycopg.Error as error:
        _log_refusal(error)
        return False


async def may_write(database: Database, token: Token, topic: str) -> bool:
    """Return whether a token may send broadcasts to `topic`. May raise DatabaseUnavailable."""
    try:
        async with database.transaction() as connection:
            await become(connection, token, topic)
            await connection.execute(
                "insert into realtime.messages (topic, extension) values (%s, 'broadcast')", [topic]
            )
    except psycopg.Error as error:
        _log_refusal(error)
        return False
    return True


async def become(connection: Connection, token: Token, topic: str = "") -> None:
    """Set the role and the claims of a token in a transaction. May raise psycopg.Error."""
    values = {
        "topic": topic,
        "claims": dump(dict(token.claims)),
        "sub": str(token.claims.get("sub") or ""),
        "role": token.role,
    }
    cursor = await connection.execute(_BECOME, values)
    if await cursor.fetchone() is None:
        raise psycopg.errors.InsufficientPrivilege(f"role {token.role!r} may not be claimed")


def _log_refusal(error: psycopg.Error) -> None:
    if error.sqlstate != "42501":
        logger.warning(
            "a policy could not be evaluated",
            extra={"event": "realtime.policy_failed", "reason": describe(error)},
        )
