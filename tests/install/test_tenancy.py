"""A project's own tenants: their roles, and tables that another tool creates later."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import run_checks
from minutehand.install.errors import InstallError
from minutehand.install.tenancy import PERSONAL, Tenants, existing
from minutehand.local.environment import demo_values, remote_values
from minutehand.local.stack import Stack
from minutehand.project import VARIABLE
from supabase_local.logs import Logs
from supabase_local.migrations import MigrationFailed
from supabase_local.state import StateFolder
from tests.install.projects import HostedDatabase, install
from tests.support.engine import ACME, ADA
from tests.support.patience import until

TABLES = """
create schema rbac; create table public.workspaces (id uuid primary key, name text);
create table public.workspace_members (workspace_id uuid, user_id uuid, "Role" {type});
"""
TENANTS = existing("workspaces(id,name)", 'workspace_members(workspace_id,user_id,"Role")')
STRICT = """
create function public.handle_new_user() returns trigger language plpgsql as $$
begin
  raise check_violation using message = 'an account needs its full name';
end $$;
create trigger on_auth_user_created after insert on auth.users
for each row execute function public.handle_new_user();
"""


@pytest.mark.parametrize(
    ("type_", "rows", "words"),
    [
        ("text[]", "", "text[]"),
        (
            "text",
            f"insert into public.workspace_members values ('{ACME}', '{ADA}', 'editor')",
            "editor",
        ),
        ("text check (\"Role\" in ('owner', 'viewer'))", "", "viewer"),
        ("rbac.role", "", "guest"),
        ("text check (\"Role\" in ('OWNER', 'member'))", "", None),
    ],
)
def test_an_unknown_role_is_refused_with_the_words_found(
    hosted: HostedDatabase, tmp_path: Path, type_: str, rows: str, words: str | None
) -> None:
    """An install stops if the project's members have a role that it does not know.

    The error names the role and the view to edit.
    """
    install(tmp_path, "minutehand", TENANTS)
    enum = "create schema if not exists rbac; create type rbac.role as enum ('owner', 'guest');"
    script = TABLES.replace("create schema rbac;", enum).replace("{type}", type_)
    hosted.as_owner(script + rows)
    if words is None:
        hosted.apply(tmp_path)
        return
    with pytest.raises(MigrationFailed) as error:
        hosted.apply(tmp_path)

    assert words in str(error.value)
    assert "tenant_members" in str(error.value)


#: Changes of the views of tenants, of their rights and of the trigger on the project's own table.
DAMAGE = """
alter view minutehand.workspaces reset (security_barrier);
alter view minutehand.workspace_members set (security_invoker = on);
alter view minutehand_engine.tenants set (security_barrier = on);
alter table public.workspaces disable trigger minutehand_before_delete;
grant select on minutehand_engine.tenants to authenticated;
grant select on minutehand.workspace_members to anon;
revoke select on minutehand.workspaces from authenticated;
comment on column minutehand.workspaces.name is null;
"""
#: A view that the project has replaced by its own, and other objects of the project.
OWN_VIEW = """
create or replace view minutehand_engine.tenants as
  select id, upper(name) as name, 1 as number from public.workspaces where name is not null;
grant select on minutehand.workspaces to authenticated;
create trigger own before update on public.workspaces
for each row execute function suppress_redundant_updates_trigger();
"""


def test_the_doctor_restores_the_views_of_tenants_and_the_history(
    hosted: HostedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor finds views of tenants that were dropped, and a lost history of migrations.

    It also finds other options and rights of the views, but no view that the project has changed.
    If a view cannot be created, because its column was dropped too, the doctor names the column.
    """
    install(tmp_path, "minutehand", TENANTS)
    hosted.as_owner(TABLES.replace("{type}", "text"))
    hosted.apply(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    target = Target({"DATABASE_URL": hosted.owner_url, "MINUTEHAND_SCHEMA": "minutehand"})

    def check(name: str) -> CheckResult:
        [finding] = run_checks(target, [name])
        return finding

    before = hosted.everything()
    hosted.as_owner("truncate supabase_migrations.schema_migrations")
    hosted.as_owner("drop view minutehand_engine.tenants cascade")
    hosted.as_owner("drop trigger minutehand_before_delete on public.workspaces")
    for name in ("migrations", "engine"):
        hosted.as_owner(str(check(name).fix))
        assert check(name).verdict == "ok"

    assert sorted(hosted.everything()) == sorted(before)
    hosted.as_owner(DAMAGE)
    hosted.as_owner(str(check("engine").fix))
    assert sorted(hosted.everything()) == sorted(before)
    hosted.as_owner(OWN_VIEW)
    assert check("engine").verdict == "ok"
    hosted.as_owner("alter table public.workspaces drop column name cascade")
    finding = check("engine")
    assert "column o.name does not exist" in finding.detail
    assert "the part tenancy/existing of " in str(finding.fix)


MEMBERS = "members(org,person)"


@pytest.mark.parametrize(
    ("organizations", "memberships"),
    [
        ("orgs.id", "members"),
        ("orgs.id", "members(org)"),
        ("orgs.id", "members(org id,person)"),
        ("orgs.id", "members(org,1x)"),
        ("orgs(id,name,more)", MEMBERS),
        ("orgs()", MEMBERS),
        (".orgs", MEMBERS),
        ("1x", MEMBERS),
        ("", MEMBERS),
    ],
)
def test_a_mistyped_table_is_an_error(organizations: str, memberships: str) -> None:
    """A misspelt option for the tenants' tables is rejected with an example."""
    with pytest.raises(InstallError, match="must name the table") as error:
        existing(organizations, memberships)

    assert error.value.fix.startswith("e.g. ")


def test_dev_waits_for_the_tables_of_another_tool(
    hosted: HostedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`minutehand dev` waits until another tool has created the tenants' tables."""
    install(tmp_path, "minutehand", TENANTS)
    response = list[str]()
    stack = _stack(tmp_path, monkeypatch, response)
    stack.postgres = hosted.server
    with ThreadPoolExecutor(1) as threads:
        applied = threads.submit(stack.apply, hosted.owner_url)
        until(lambda: applied.done() or any("DATABASE_URL" in line for line in response))
        hosted.as_owner(TABLES.replace("{type}", "text"))
        assert len(applied.result()) == 1
    assert "members" in response[0]


@pytest.mark.parametrize("tenants", [None, PERSONAL])
def test_dev_starts_if_the_project_rejects_the_demo_accounts(
    hosted: HostedDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenants: Tenants | None
) -> None:
    """`minutehand dev` starts without demo accounts if a trigger of the project rejects them."""
    install(tmp_path, "minutehand", tenants)
    response = list[str]()
    stack = _stack(tmp_path, monkeypatch, response)
    stack.values |= demo_values()
    stack.environment |= demo_values()
    hosted.apply(tmp_path)
    hosted.as_owner(STRICT)
    stack.before_seeds(hosted.url)
    assert "full name" in response[0]
    assert "DEMO_EMAIL" not in StateFolder(tmp_path).env_file.read_text()
    assert "DEMO_EMAIL" not in stack.environment  # the console then offers no demo accounts
    assert stack.seeds() == []


def _stack(folder: Path, monkeypatch: pytest.MonkeyPatch, output: list[str]) -> Stack:
    """Return the stack of an installed project, without its apps."""
    toml = folder / "minutehand.toml"
    toml.write_text(toml.read_text().replace('apps = ["jobs"]', "apps = []"))
    monkeypatch.setenv(VARIABLE, str(folder))
    remote = remote_values("http://127.0.0.1:1", {"PUBLISHABLE_KEY": "p", "SECRET_KEY": "s"})
    logs = Logs(Console(), folder)
    return Stack(StateFolder(folder), logs, output.append, parent_env={}, remote=remote)
