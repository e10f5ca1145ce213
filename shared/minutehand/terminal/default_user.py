"""The default user of a local stack, a member of a tenant for whom commands need no sign-in.

This module signs the default user's access token with the local stack's key, as Supabase Auth does.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import jwt

from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from minutehand.queue.outbound_http import is_local

NEEDED = ("SUPABASE_URL", "SUPABASE_JWT_SECRET", "DATABASE_URL")


@dataclass(frozen=True)
class Member:
    """A user who is a member of a tenant."""

    user_id: str
    email: str
    tenant: str


def find_member(values: Mapping[str, str]) -> Member | None:
    """Find the oldest account that is a member of a tenant. Return None if no account is one.

    Raises:
        ConnectionError: The local database does not respond.
    """
    import psycopg  # installed by the extra `dev`, as is the local stack

    schema = Schemas(values.get("MINUTEHAND_SCHEMA") or Project.find().schema_).engine
    sql = f"""select u.id::text, coalesce(u.email, u.id::text), m.workspace_id::text
      from {schema}.tenant_members as m join auth.users as u on u.id = m.user_id
      where not coalesce(u.is_anonymous, false) order by u.created_at, u.id, 3 limit 1"""
    try:
        with psycopg.connect(values["DATABASE_URL"], connect_timeout=5) as connection:
            row = connection.execute(sql.encode()).fetchone()
    except psycopg.Error as error:
        message = f"the local database does not respond: {str(error).splitlines()[0]}"
        raise ConnectionError(message) from error
    return None if row is None else Member(*row)


def is_available(values: Mapping[str, str]) -> bool:
    """Return True if the settings are those of a stack on this machine, with the stack's key."""
    return all(values.get(name) for name in NEEDED) and is_local(values["SUPABASE_URL"])


def make_token(values: Mapping[str, str]) -> str | None:
    """Make an access token for the first member, valid for an hour.

    Return None if no user is a member of a tenant.
    """
    member = find_member(values) if is_available(values) else None
    if member is None:
        return None
    now = int(time.time())
    claims = {
        "sub": member.user_id,
        "email": member.email,
        "role": "authenticated",
        "aud": "authenticated",
        "is_anonymous": False,
        "iat": now,
        "exp": now + 3600,
    }
    return jwt.encode(claims, values["SUPABASE_JWT_SECRET"], "HS256")
