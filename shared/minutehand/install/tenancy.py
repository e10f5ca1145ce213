"""The kinds of tenants: rows of our tables, rows of an application's tables, or single users.

The engine reads two views, `tenants` and `tenant_members`, which its migrations create over our
tables. For the two other kinds of tenants, the SQL of this module comes last and replaces those
views.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from minutehand.install.rewrite import Schemas
from minutehand.project import Tenancy

MANAGERS = ("owner", "admin", "manager")
MEMBERS = ("member",)

_VIEWS = """\
-- Edit this part as needed, because `minutehand upgrade` never compares or changes it.
-- {reason}
{check}
-- all tenants: id as in jobs.workspace_id, a uuid, and the name that people see
create or replace view {engine}.tenants as
  {tenants};

-- members of each tenant, with the role manager or member
create or replace view {engine}.tenant_members as
  {members};

-- delete a tenant's jobs with the tenant
create trigger minutehand_before_delete before delete on {table}
  for each row execute function {engine}.tenant_deleted('{key}');

-- replace our tables by views in which clients see their own tenants and those tenants' members
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
-- same comments as on the replaced tables; erase_person changes only tables with such comments
comment on column {clients}.workspaces.name is 'Person: words to clear';
comment on column {clients}.workspace_members.user_id is 'Person: owner';
"""

#: Check that stops the migration if a role is unknown, because its users would not be members.
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
  where lower(w.word) not in ({known});
  if v_type::text like '%[]' or v_words is not null then
    raise exception 'roles of {table} (%) that are neither a manager''s nor a member''s: %',
      v_type, coalesce(v_words, 'none yet') using hint = 'Map these roles in the view '
        'tenant_members below, and delete this block from the file.';
  end if;
end;
$$;
"""

# keep capital letters, because ORMs write such names; quotes are optional
_NAME = r'"?[A-Za-z_][A-Za-z0-9_]*"?'
_TABLE = rf"(?:(?P<schema>{_NAME})\.)?(?P<table>{_NAME})"
_COLUMNS = r'\((?P<columns>[A-Za-z0-9_",\s]+)\)'


class TenancyError(Exception):
    """The options do not name the tables; the message has the expected form."""


@dataclass(frozen=True)
class Tenants:
    """Tenants in our tables."""

    kind: Tenancy = "workspaces"

    def migration(self, schemas: Schemas) -> str | None:
        """Return the SQL that replaces the engine's tables, or None if they are used."""
        del schemas
        return None


@dataclass(frozen=True)
class ExistingTenants(Tenants):
    """Organizations and memberships of an application; `organization` includes the schema."""

    kind: Tenancy = "existing"
    organization: str = "public.organizations"
    key: str = "id"
    name: str | None = None
    membership: str = "public.memberships"
    member_of: str = "organization_id"
    user: str = "user_id"
    role: str | None = None

    def migration(self, schemas: Schemas) -> str:
        """Return views over the application's tables, and a trigger."""
        key = sql_name(self.key)
        label = f"o.{sql_name(self.name or self.key)}::text"
        role, where, check = "'member'::text", "", ""
        tenant, user = f"m.{sql_name(self.member_of)}", f"m.{sql_name(self.user)}"
        if self.role:
            # compare in lower case, because enums of Prisma are upper case
            column = f"lower(m.{sql_name(self.role)}::text)"
            managers, members = (
                f"{column} in ({', '.join(map(_quoted, names))})" for names in (MANAGERS, MEMBERS)
            )
            role = f"case when {managers} then 'manager' else 'member' end"
            # a user with a role in neither list, such as guest, is no member
            where = f"\n  where {managers} or {members}"
            check = _ROLES.format(
                table=self.membership,
                column=self.role,
                role=sql_name(self.role),
                known=", ".join(map(_quoted, MANAGERS + MEMBERS)),
            )
        return _VIEWS.format(
            reason="It reads members from this project's own tables. Edit it for closed"
            " organizations,\n-- former members or other names of roles.",
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
        """Return views over Auth's users, and a trigger."""
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
    """Quote the name of a column or table if it has capital letters."""
    return name if name == name.lower() else f'"{name}"'


def _quoted(name: str) -> str:
    return f"'{name}'"


def existing(organization_spec: str, membership_spec: str) -> ExistingTenants:
    """Read `app.organizations(id,name)` or `organizations.id`, and `memberships(org,user,role)`.

    Raises:
        TenancyError: One of the options has another form; the message has an example.
    """
    organization = re.fullmatch(
        rf"{_TABLE}(?:\.(?P<key>{_NAME})|{_COLUMNS})", organization_spec.strip()
    ) or re.fullmatch(rf"(?P<table>{_NAME})", organization_spec.strip())
    if organization is None:
        raise TenancyError(
            f"{organization_spec!r} must name the table and its key, e.g. organizations.id, or also"
            " the column of the name, e.g. organizations(id,name)"
        )
    match = re.fullmatch(rf"{_TABLE}{_COLUMNS}", membership_spec.strip())
    columns = _columns(match["columns"]) if match else []
    if match is None or not 2 <= len(columns) <= 3:
        raise TenancyError(
            f"{membership_spec!r} must name the table, and the columns of the organization, the"
            " user and optionally the role, e.g. memberships(organization_id,user_id,role)"
        )
    parts = organization.groupdict()
    key = _columns(parts.get("columns") or parts.get("key") or "id")
    return ExistingTenants(
        organization=_table(parts.get("schema"), organization["table"]),
        key=key[0],
        name=key[1] if len(key) > 1 else None,
        membership=_table(match["schema"], match["table"]),
        member_of=columns[0],
        user=columns[1],
        role=columns[2] if len(columns) == 3 else None,
    )


def _table(schema: str | None, table: str) -> str:
    return ".".join(sql_name(part.replace('"', "")) for part in (schema or "public", table))


def _columns(text: str) -> list[str]:
    return [column.strip().replace('"', "") for column in text.split(",") if column.strip()]
