"""Every engine and app migration applies with every tenancy, and each answers who belongs where."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from minutehand.install.project import Answers, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import Personal, Tenants, existing
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from tests.install.projects import ADA, EVE, Hosted, bakery
from tests.install.test_install import NOON
from tests.support.paths import ROOT

APPS = tuple(sorted(path.parent.name for path in ROOT.glob("shared/minutehand/apps/*/migrations")))
OURS = Schemas("minutehand", "minutehand_engine")
TEAM = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def hosted(postgres: Postgres) -> Hosted:
    """Databases without the CLI: our own runner applies what it would."""
    return Hosted(postgres, Path())


@pytest.mark.parametrize(
    "tenants",
    [
        Tenants(),
        Personal(),
        existing("organizations(id,name)", "memberships(organization_id,user_id,role)"),
    ],
    ids=lambda tenants: tenants.kind,
)
def test_every_app_applies_and_the_seam_answers(
    tenants: Tenants, hosted: Hosted, tmp_path: Path
) -> None:
    """Members, managers and strangers, asked of the same functions."""
    bakery(tmp_path)
    plan_install(tmp_path, Answers(OURS, tenants, apps=APPS), now=NOON).apply()
    with hosted.database() as database:
        files = migrations.migrations_in(tmp_path / "supabase" / "migrations")
        migrations.apply_migrations(database.owner_url, files)
        database.sign_up()
        match tenants.kind:
            case "workspaces":
                database.run("insert into minutehand.workspaces values (%s, 'Team')", TEAM)
                database.run(
                    "insert into minutehand.workspace_members values (%s, %s, 'manager')",
                    TEAM,
                    ADA,
                )
            case "existing":
                database.run("insert into public.organizations values (%s, 'Team')", TEAM)
                database.run("insert into public.memberships values (%s, %s, 'owner')", TEAM, ADA)
        tenant = ADA if tenants.kind == "personal" else TEAM

        said = {user: asked(database.url, user, tenant) for user in (ADA, EVE)}

        assert said[ADA] == (True, True, 1, [tenant])
        assert said[EVE][:2] == (False, False)
        assert tenant not in said[EVE][3]
        if tenants.kind == "existing":
            database.run("update public.memberships set role = 'baker'")
            assert asked(database.url, ADA, tenant)[:2] == (True, False)


def asked(url: str, user: str, tenant: str) -> tuple[bool, bool, int, list[str]]:
    """Is the user a member, a manager, of how many; and what does the view show."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select set_config('request.jwt.claims', %s, false)",
            (f'{{"role": "authenticated", "sub": "{user}"}}',),
        )
        connection.execute("set role authenticated")
        shown = connection.execute("select id::text from minutehand.workspaces").fetchall()
        connection.execute("reset role")
        row = connection.execute(
            "select minutehand_engine.is_member(%s), minutehand_engine.is_manager(%s),"
            " (select count(*) from minutehand_engine.my_workspaces())",
            (tenant, tenant),
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2], [each[0] for each in shown]
