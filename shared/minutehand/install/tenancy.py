"""Who the tenants are: tables of ours, an application's own tables, or each user for themselves.

The engine asks two views, `tenants` and `tenant_members`, and its migrations make them over tables
of ours. For the other answers the SQL written here comes last and takes the place of those tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from minutehand.install.rewrite import Schemas
from minutehand.project import Tenancy

MANAGERS = ("owner", "admin", "manager")
MEMBERS = ("member",)

_VIEWS = """\
-- Yours to edit: `minutehand upgrade` never compares or changes this part.
-- {reason}
{check}
-- every tenant: what jobs.workspace_id holds, a uuid, and the name people see
create or replace view {engine}.tenants as
  {tenants};

-- who belongs to which tenant, and as what: manager or member
create or replace view {engine}.tenant_members as
  {members};

-- a tenant's jobs go with it
create trigger minutehand_before_delete before delete on {table}
  for each row execute function {engine}.tenant_deleted('{key}');

-- what clients read in place of tables of ours: their own tenants, and who shares them
drop table {clients}.workspace_members, {clients}.workspaces;
create view {clients}.workspaces with (security_barrier = true) as
  select t.id, t.name, null::timestamptz as created_at from {engine}.tenants as t
  where t.id in (select {engine}.my_workspaces())
    or (select auth.jwt() ->> 'role') = 'service_role';
create view {clients}.workspace_members with (security_barrier = true) as
  select m.workspace_id, m.user_id, m.role, null::timestamptz as created_at
  from {engine}.tenant_members as m
  where m.workspace_id in (select {engine}.my_workspaces())
    or (select auth.jwt() ->> 'role') = 'service_role';
revoke all on {clients}.workspaces, {clients}.workspace_members
  from public, anon, authenticated, service_role;
grant select on {clients}.workspaces, {clients}.workspace_members
  to authenticated, service_role;
-- as of the tables they replace; erase_person changes tables alone, those that say so themselves
comment on column {clients}.workspaces.name is 'Person: words to clear';
comment on column {clients}.workspace_members.user_id is 'Person: owner';
"""

#: Stops where someone would silently be a member of nothing.
_ROLES = """
do $$
declare
  v_type regtype;
  v_column smallint;
  v_words text;
begin
  select a.atttypid, a.attnum into v_type, v_column from pg_catalog.pg_attribute as a
  where a.attrelid = '{table}'::regclass and a.attname = '{column}';
  select string_agg(distinct w.word, ', ') into v_words from (
    select coalesce(m.{role}::text, 'null') as word from {table} as m
    union select e.enumlabel::text from pg_catalog.pg_enum as e where e.enumtypid = v_type
    union select c.words[1] from pg_catalog.pg_constraint as k
    cross join lateral regexp_matches(
      pg_get_constraintdef(k.oid), '''([^'']+)''::', 'g') as c (words)
    where k.conrelid = '{table}'::regclass and k.contype = 'c' and v_column = any (k.conkey)) as w
  where w.word not in ({known});
  if v_type::text like '%[]' or v_words is not null then
    raise exception 'roles of {table} (%) that are neither a manager''s nor a member''s: %',
      v_type, coalesce(v_words, 'none yet') using hint = 'Let the view tenant_members below say '
        'who is what, and take this block out of the file.';
  end if;
end;
$$;
"""

# exact letters, as ORMs write them; quotes are for shells and people
_NAME = r'"?[A-Za-z_][A-Za-z0-9_]*"?'
_TABLE = rf"(?:(?P<schema>{_NAME})\.)?(?P<table>{_NAME})"
_COLUMNS = r'\((?P<columns>[A-Za-z0-9_",\s]+)\)'


class TenancyError(Exception):
    """The tables cannot be derived from what was given; the message says what must be."""


@dataclass(frozen=True)
class Tenants:
    """Tables of ours; the other kinds say more."""

    kind: Tenancy = "workspaces"

    def migration(self, schemas: Schemas) -> str | None:
        """The SQL that takes the place of the engine's own tables; None where those are used."""
        del schemas
        return None


@dataclass(frozen=True)
class ExistingTenants(Tenants):
    """An application's own organizations and memberships; `organization` has its schema."""

    kind: Tenancy = "existing"
    organization: str = "public.organizations"
    key: str = "id"
    name: str | None = None
    membership: str = "public.memberships"
    member_of: str = "organization_id"
    user: str = "user_id"
    role: str | None = None

    def migration(self, schemas: Schemas) -> str:
        """Views over their tables, and two triggers."""
        key = sql_name(self.key)
        label = f"o.{sql_name(self.name or self.key)}::text"
        role, where, check = "'member'::text", "", ""
        tenant, user = f"m.{sql_name(self.member_of)}", f"m.{sql_name(self.user)}"
        if self.role:
            said = f"m.{sql_name(self.role)}"
            managers, members = (
                f"{said}::text in ({', '.join(map(_quoted, names))})"
                for names in (MANAGERS, MEMBERS)
            )
            role = f"case when {managers} then 'manager' else 'member' end"
            # a role that was never named here, as a guest's, gets nothing
            where = f"\n  where {managers} or {members}"
            check = _ROLES.format(
                table=self.membership,
                column=self.role,
                role=sql_name(self.role),
                known=", ".join(map(_quoted, MANAGERS + MEMBERS)),
            )
        return _VIEWS.format(
            reason="Who belongs where, answered from this project's own tables. For organizations"
            " that are closed,\n-- members that have left or other words for roles, edit it.",
            engine=schemas.engine,
            clients=schemas.clients,
            tenants=f"select o.{key} as id, {label} as name\n  from {self.organization} as o",
            members=f"select {tenant} as workspace_id, {user} as user_id,\n"
            f"    {role} as role\n  from {self.membership} as m{where}",
            table=self.organization,
            key=self.key,
            check=check,
        )


@dataclass(frozen=True)
class PersonalTenants(Tenants):
    """Each user is a tenant, by the same id."""

    kind: Tenancy = "personal"

    def migration(self, schemas: Schemas) -> str:
        """Views over Auth's users, and two triggers."""
        return _VIEWS.format(
            reason="Each user is a tenant of their own: jobs.workspace_id holds the user's id.",
            engine=schemas.engine,
            clients=schemas.clients,
            tenants="select u.id, coalesce(u.email::text, u.id::text) as name\n"
            "  from auth.users as u",
            members="select u.id as workspace_id, u.id as user_id, 'manager'::text as role\n"
            "  from auth.users as u",
            table="auth.users",
            key="id",
            check="",
        )


def sql_name(name: str) -> str:
    """A column, or a table within its schema, as SQL reads it."""
    return name if name == name.lower() else f'"{name}"'


def _quoted(name: str) -> str:
    return f"'{name}'"


def existing(organizations: str, memberships: str) -> ExistingTenants:
    """Read `app.organizations(id,name)` or `organizations.id`, and `memberships(org,user,role)`.

    Raises:
        TenancyError: One of them is neither; the message shows an example.
    """
    one = re.fullmatch(
        rf"{_TABLE}(?:\.(?P<key>{_NAME})|{_COLUMNS})", organizations.strip()
    ) or re.fullmatch(rf"(?P<table>{_NAME})", organizations.strip())
    if one is None:
        raise TenancyError(
            f"{organizations!r} must name the table and its key: organizations.id, or with the"
            " column of the name organizations(id,name)"
        )
    many = re.fullmatch(rf"{_TABLE}{_COLUMNS}", memberships.strip())
    columns = _columns(many["columns"]) if many else []
    if many is None or not 2 <= len(columns) <= 3:
        raise TenancyError(
            f"{memberships!r} must name the table, and the columns of the organization, the user"
            " and, where there is one, the role: memberships(organization_id,user_id,role)"
        )
    parts = one.groupdict()
    key = _columns(parts.get("columns") or parts.get("key") or "id")
    return ExistingTenants(
        organization=_table(parts.get("schema"), one["table"]),
        key=key[0],
        name=key[1] if len(key) > 1 else None,
        membership=_table(many["schema"], many["table"]),
        member_of=columns[0],
        user=columns[1],
        role=columns[2] if len(columns) == 3 else None,
    )


def _table(schema: str | None, table: str) -> str:
    return ".".join(sql_name(part.replace('"', "")) for part in (schema or "public", table))


def _columns(text: str) -> list[str]:
    return [column.strip().replace('"', "") for column in text.split(",") if column.strip()]
