"""Who the tenants are: tables of ours, an application's own tables, or each user for themselves.

The engine asks two views, `tenants` and `tenant_members`. For the first answer a file of the engine
makes them; for the others it is replaced by the migration written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from minutehand.install.rewrite import Schemas
from minutehand.project import Tenancy

MANAGERS = ("owner", "admin", "manager")

_VIEWS = """\
-- Yours to edit: `minutehand upgrade` never compares or changes this file.
-- {reason}

create view {engine}.tenants as
  {tenants};
comment on view {engine}.tenants is 'Every tenant: id, a uuid, and the name people see.';
comment on column {engine}.tenants.id is 'What jobs.workspace_id holds.';
comment on column {engine}.tenants.name is 'Name people see.';

create view {engine}.tenant_members as
  {members};
comment on view {engine}.tenant_members is 'Who belongs to which tenant, and as what.';
comment on column {engine}.tenant_members.workspace_id is 'The tenant.';
comment on column {engine}.tenant_members.user_id is 'The Supabase Auth user.';
comment on column {engine}.tenant_members.role is 'manager or member.';
revoke all on {engine}.tenants, {engine}.tenant_members
  from public, anon, authenticated, service_role;

-- a tenant's jobs go with it
create trigger minutehand_before_delete before delete on {table}
  for each row execute function {engine}.tenant_deleted('{key}');
create trigger minutehand_after_delete after delete on {table}
  for each row execute function {engine}.tenant_deleted('{key}');

-- what clients read: their own tenants, and who shares them
create view {clients}.workspaces with (security_invoker = true) as
  select id, name from {engine}.visible_tenants();
comment on view {clients}.workspaces is 'The caller''s tenants.';
comment on column {clients}.workspaces.id is 'What jobs.workspace_id holds.';
comment on column {clients}.workspaces.name is 'Name people see.';

create view {clients}.workspace_members with (security_invoker = true) as
  select workspace_id, user_id, role from {engine}.visible_members();
comment on view {clients}.workspace_members is 'Who shares a tenant with the caller.';
comment on column {clients}.workspace_members.workspace_id is 'The tenant.';
comment on column {clients}.workspace_members.user_id is 'The Supabase Auth user.';
comment on column {clients}.workspace_members.role is 'manager or member.';
revoke all on {clients}.workspaces, {clients}.workspace_members
  from public, anon, authenticated, service_role;
grant select on {clients}.workspaces, {clients}.workspace_members
  to authenticated, service_role;
"""

_NAME = r"[a-z_][a-z0-9_]*"
_TABLE = rf"(?:(?P<schema>{_NAME})\.)?(?P<table>{_NAME})"


class TenancyError(Exception):
    """The tables cannot be derived from what was given; the message says what must be."""


@dataclass(frozen=True)
class Tenants:
    """Tables of ours; the other kinds say more."""

    kind: Tenancy = "workspaces"

    def migration(self, schemas: Schemas) -> str | None:
        """The SQL that takes the place of the engine's own file; None where that one is used."""
        del schemas
        return None

    def adapt(self, sql: str, schemas: Schemas) -> str:
        """An app's SQL, already renamed, for these tenants: its foreign keys and look-ups."""
        del schemas
        return sql


@dataclass(frozen=True)
class Existing(Tenants):
    """An application's own organizations and memberships; `organization` has its schema."""

    kind: Tenancy = "existing"
    organization: str = "public.organizations"
    key: str = "id"
    name: str | None = None
    membership: str = "public.memberships"
    member_of: str = "organization_id"
    user: str = "user_id"
    role: str | None = None
    managers: tuple[str, ...] = MANAGERS

    def migration(self, schemas: Schemas) -> str:
        """Views over their tables, and one trigger."""
        label = f"o.{self.name}::text" if self.name else f"o.{self.key}::text"
        role = "'member'::text"
        if self.role:
            known = ", ".join(f"'{name}'" for name in self.managers)
            role = f"case when m.{self.role}::text in ({known}) then 'manager' else 'member' end"
        return _VIEWS.format(
            reason="Who belongs where, answered from this project's own tables. For organizations"
            " that are closed\n-- or members that have left, add a `where`.",
            engine=schemas.engine,
            clients=schemas.clients,
            tenants=f"select o.{self.key} as id, {label} as name\n  from {self.organization} as o",
            members=f"select m.{self.member_of} as workspace_id, m.{self.user} as user_id,\n"
            f"    {role} as role\n  from {self.membership} as m",
            table=self.organization,
            key=self.key,
        )

    def adapt(self, sql: str, schemas: Schemas) -> str:
        """Refer to their table, and look tenants up in the engine's view."""
        return _adapted(sql, schemas, f"{self.organization} ({self.key})")


@dataclass(frozen=True)
class Personal(Tenants):
    """Each user is a tenant, by the same id."""

    kind: Tenancy = "personal"

    def migration(self, schemas: Schemas) -> str:
        """Views over Auth's users, and one trigger."""
        return _VIEWS.format(
            reason="Each user is a tenant of their own: jobs.workspace_id holds the user's id.",
            engine=schemas.engine,
            clients=schemas.clients,
            tenants="select u.id, coalesce(u.email, u.id::text) as name\n  from auth.users as u",
            members="select u.id as workspace_id, u.id as user_id, 'manager'::text as role\n"
            "  from auth.users as u",
            table="auth.users",
            key="id",
        )

    def adapt(self, sql: str, schemas: Schemas) -> str:
        """Refer to Auth's users, and look tenants up in the engine's view."""
        return _adapted(sql, schemas, "auth.users (id)")


def _adapted(sql: str, schemas: Schemas, key: str) -> str:
    table = rf"\b{schemas.clients}\.workspaces\b"
    sql = re.sub(rf"\breferences\s+{table}\s*\(id\)", f"references {key}", sql)
    return re.sub(table, f"{schemas.engine}.tenants", sql)


def existing(
    organizations: str, memberships: str, *, managers: Iterable[str] = MANAGERS
) -> Existing:
    """Read `app.organizations(id,name)` or `organizations.id`, and `memberships(org,user,role)`.

    Raises:
        TenancyError: One of them is neither; the message shows an example.
    """
    one = re.fullmatch(
        rf"{_TABLE}(?:\.(?P<key>{_NAME})|\((?P<columns>[a-z0-9_,\s]+)\))", organizations.strip()
    ) or re.fullmatch(rf"(?P<table>{_NAME})", organizations.strip())
    if one is None:
        raise TenancyError(
            f"{organizations!r} must name the table and its key: organizations.id, or with the"
            " column of the name organizations(id,name)"
        )
    many = re.fullmatch(rf"{_TABLE}\((?P<columns>[a-z0-9_,\s]+)\)", memberships.strip())
    columns = _columns(many["columns"]) if many else []
    if many is None or not 2 <= len(columns) <= 3:
        raise TenancyError(
            f"{memberships!r} must name the table, and the columns of the organization, the user"
            " and, where there is one, the role: memberships(organization_id,user_id,role)"
        )
    parts = one.groupdict()
    key = _columns(parts.get("columns") or parts.get("key") or "id")
    wrong = [name for name in managers if not re.fullmatch(r"[\w -]+", name)]
    if wrong:
        raise TenancyError(f"{wrong[0]!r} must be the name of a role: letters, digits, - and _")
    return Existing(
        organization=f"{parts.get('schema') or 'public'}.{one['table']}",
        key=key[0],
        name=key[1] if len(key) > 1 else None,
        membership=f"{many['schema'] or 'public'}.{many['table']}",
        member_of=columns[0],
        user=columns[1],
        role=columns[2] if len(columns) == 3 else None,
        managers=tuple(managers),
    )


def _columns(text: str) -> list[str]:
    return [column.strip() for column in text.split(",") if column.strip()]


def detect(folder: Path) -> list[tuple[str, str]]:
    """Read the project's migrations for pairs of `--organizations` and `--memberships` that fit.

    A membership is a table that points at Auth's users and at one other table; with a column
    `role` it is the likelier, and comes first.
    """
    text = "\n".join(
        path.read_text("utf-8", errors="replace")
        for path in sorted((folder / "supabase" / "migrations").glob("*.sql"))
    )
    tables = dict(_tables(re.sub(r"--[^\n]*|\"", "", text).lower()))
    found: list[tuple[bool, str, str]] = []
    for table, columns in tables.items():
        user = next((name for name in columns if _is_user(name, columns[name])), None)
        targets = {name: _target(name, columns[name], tables) for name in columns if name != user}
        column = next((name for name in targets if targets[name] not in (None, table)), None)
        if user is None or column is None:
            continue
        organization = str(targets[column])
        role = ",role" if "role" in columns else ""
        label = ",name" if "name" in tables[organization] else ""
        found.append((not role, f"{organization}(id{label})", f"{table}({column},{user}{role})"))
    return [(one, many) for _, one, many in sorted(found)]


def _is_user(column: str, rest: str) -> bool:
    return column == "user_id" or "auth.users" in rest


def _tables(text: str) -> Iterable[tuple[str, dict[str, str]]]:
    pattern = rf"create table (?:if not exists )?{_TABLE}\s*\((?P<body>.*?)\n\s*\)"
    for match in re.finditer(pattern, text, re.DOTALL):
        lines = (line.strip().rstrip(",") for line in match["body"].splitlines())
        columns = {
            parts[0]: parts[1]
            for line in lines
            if len(parts := line.split(None, 1)) == 2
            and parts[0] not in ("primary", "foreign", "constraint", "unique", "check")
        }
        yield _qualified(match), columns


def _target(column: str, rest: str, tables: dict[str, dict[str, str]]) -> str | None:
    reference = re.search(rf"references\s+{_TABLE}", rest)
    if reference is not None and reference["schema"] != "auth":
        name = _qualified(reference)
        return name if name in tables else None
    plural = f"{column.removesuffix('_id')}s"
    return plural if column.endswith("_id") and plural in tables and plural != "users" else None


def _qualified(match: re.Match[str]) -> str:
    schema = match["schema"]
    return match["table"] if schema in (None, "public") else f"{schema}.{match['table']}"
