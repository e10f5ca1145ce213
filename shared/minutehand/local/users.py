"""Inserts the demo users into the tables of Supabase Auth, with fixed ids.

This module inserts users by SQL, because the local Auth server has no admin API and the demo's seed
refers to the fixed ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import psycopg

PASSWORD = "minutehand-demo"
# a hash with bcrypt's lowest cost is enough, because the password is public
PASSWORD_HASH = "$2b$04$YSokj4P0m2zo8VWCYF6ACuk5uzXv2lLj8ai6hf4oaYLjgQ5nLw9m."


@dataclass(frozen=True)
class DemoUser:
    """A user who can sign in to the local stack."""

    id: UUID
    email: str
    role: str
    #: Id of the user's workspace, or None for the operator, who is not a member of a workspace.
    workspace_id: UUID | None


ACME = UUID("11111111-1111-4111-8111-111111111111")
GLOBEX = UUID("22222222-2222-4222-8222-222222222222")
ADA = DemoUser(UUID("aaaaaaaa-0000-4000-8000-000000000001"), "ada@acme.test", "manager", ACME)
BOB = DemoUser(UUID("aaaaaaaa-0000-4000-8000-000000000002"), "bob@acme.test", "member", ACME)
EVE = DemoUser(UUID("aaaaaaaa-0000-4000-8000-000000000003"), "eve@globex.test", "manager", GLOBEX)
OLGA = DemoUser(
    UUID("aaaaaaaa-0000-4000-8000-000000000004"), "olga@minutehand.test", "operator", None
)
DEMO_USERS = (ADA, BOB, EVE, OLGA)

_INSERT_USER = """
insert into auth.users (
  id, aud, role, email, encrypted_password, email_confirmed_at,
  raw_app_meta_data, raw_user_meta_data
)
select
  %(id)s::uuid, 'authenticated', 'authenticated', %(email)s::text, %(hash)s, now(),
  jsonb_build_object(
    'provider', 'email', 'providers', '["email"]'::jsonb,
    'minutehand_operator', %(operator)s::boolean
  ),
  jsonb_build_object(
    'sub', %(id)s::text, 'email', %(email)s::text, 'email_verified', true, 'phone_verified', false
  )
where not exists (
  select from auth.users as users where users.id = %(id)s::uuid or users.email = %(email)s::text
)
"""


def create_demo_users(url: str, accounts: Iterable[DemoUser] = DEMO_USERS) -> None:
    """Insert the users that do not exist. The local stack calls this function at each start."""
    with psycopg.connect(url) as connection:
        for user in accounts:
            values = {
                "id": user.id,
                "email": user.email,
                "hash": PASSWORD_HASH,
                "operator": user.workspace_id is None,
            }
            connection.execute(_INSERT_USER, values)
