"""Defines what a tenant is: a row of Minutehand's table, a row of a project's own table, or a user.

The engine reads tenants from two views, `tenants` and `tenant_members`. The migrations of
Minutehand create these views over Minutehand's own tables. If tenants are rows of a project's table
or users, the SQL of this module runs last and replaces the two views.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from minutehand.install.errors import InstallError
from minutehand.install.rewrite import Schemas
from minutehand.project import Tenancy

#: Names of roles that make a member a manager or a plain member, as SQL strings.
MANAGERS, MEMBERS = "'owner', 'admin', 'manager'", "'member'"

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
create view {clients}.workspaces with (security_barrier = on) as
  select t.id, t.name, null::timestamptz as created_at from {engine}.tenants as t
  where t.id in (select {engine}.my_workspaces())
    or (select auth.jwt() ->> 'role') = 'service_role';
create view {clients}.workspace_members with (security_barrier = on) as
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

#: SQL that makes the migration fail if the memberships table contains an unknown role, because
#: users with this role would not be members of their tenant.
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


@dataclass(frozen=True)
class Tenants:
    """A kind of tenants, with values for the SQL that replaces Minutehand's tables of tenants."""

    kind: Tenancy = "workspaces"
    values: Mapping[str, str] = field(default_factory=dict)

    def migration(self, schemas: Schemas) -> str | None:
        """Return SQL that replaces Minutehand's tables of tenants, or None to keep these tables."""
        names = {"engine": schemas.engine, "clients": schemas.clients}
        return _VIEWS.format(**self.values, **names) if self.values else None


#: Kind of tenants in which each user is a tenant, whose id is the user's id.
PERSONAL = Tenants(
    "personal",
    {
        "reason": "Each user is a tenant of their own: jobs.workspace_id holds the user's id.",
        "tenants": "select u.id, coalesce(u.email::text, u.id::text) as name\n"
        "  from auth.users as u",
        "members": "select u.id as workspace_id, u.id as user_id, 'manager'::text as role\n"
        "  from auth.users as u",
        "table": "auth.users",
        "key": "id",
        "check": "",
    },
)


def existing(organization_spec: str, membership_spec: str) -> Tenants:
    """Parse `app.organizations(id,name)` or `organizations.id`, and `memberships(org,user,role)`.

    Raises:
        InstallError: One of the options has another form. The error's remedy is an example.
    """
    organization, columns = _read(organization_spec)
    if not columns and len(organization) > 1:
        columns = [organization.pop()]
    key, *names = columns or ["id"]
    if not 1 <= len(organization) <= 2 or len(names) > 1:
        raise InstallError(
            f"{organization_spec!r} must name the table, its key and optionally the name's column",
            code="bad_tenancy",
            fix="e.g. organizations.id, or organizations(id,name)",
        )
    membership, columns = _read(membership_spec)
    if not 1 <= len(membership) <= 2 or not 2 <= len(columns) <= 3:
        raise InstallError(
            f"{membership_spec!r} must name the table, and the columns of the organization, the"
            " user and optionally the role",
            code="bad_tenancy",
            fix="e.g. memberships(organization_id,user_id,role)",
        )
    of_organization, of_members = _table(organization), _table(membership)
    tenant, user, *role_columns = columns
    label = sql_name((names or [key])[0])
    role, where, check = "'member'::text", "", ""
    for column in map(sql_name, role_columns):
        # compare roles in lower case, because Prisma's enums are in upper case
        managers, members = (
            f"lower(m.{column}::text) in ({words})" for words in (MANAGERS, MEMBERS)
        )
        role = f"case when {managers} then 'manager' else 'member' end"
        # a user whose role is in neither list, such as a guest, is not a member
        where = f"\n  where {managers} or {members}"
        check = _ROLES.format(
            table=of_members, column=role_columns[0], role=column, known=f"{MANAGERS}, {MEMBERS}"
        )
    values = {
        "reason": "It reads members from this project's own tables. Edit it for closed"
        " organizations,\n-- former members or other names of roles.",
        "tenants": f"select o.{sql_name(key)} as id, o.{label}::text as name\n"
        f"  from {of_organization} as o",
        "members": f"select m.{sql_name(tenant)} as workspace_id, m.{sql_name(user)} as user_id,\n"
        f"    {role} as role\n  from {of_members} as m{where}",
        "table": of_organization,
        "key": key,
        "check": check,
    }
    return Tenants("existing", values)


def sql_name(name: str) -> str:
    """Quote the name of a column or table if it contains a capital letter."""
    return name if name == name.lower() else f'"{name}"'


def _read(spec: str) -> tuple[list[str], list[str]]:
    """Split `schema.table(column,column)` into the parts of the table's name and the columns."""
    name = r"\s*[A-Za-z_]\w*\s*"
    pattern = rf"({name}(?:\.{name})*)(?:\(({name}(?:,{name})*)\)\s*)?"
    match = re.fullmatch(pattern, spec.replace('"', ""), re.ASCII)
    parts, columns = match.groups("") if match else ("", "")
    return re.findall(r"\w+", parts), re.findall(r"\w+", columns)


def _table(parts: list[str]) -> str:
    return ".".join(map(sql_name, parts if len(parts) > 1 else ("public", *parts)))
