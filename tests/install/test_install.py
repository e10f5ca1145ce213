"""What `minutehand install`, `init`, `upgrade` and `uninstall` write, say and refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from minutehand.install.project import Answers, Plan, Write, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import InstallError, installed, sections_between, timestamps
from minutehand.install.tenancy import (
    Existing,
    Personal,
    TenancyError,
    Tenants,
    detect,
    existing,
)
from minutehand.install.upgrade import plan_upgrade
from minutehand.version import VERSION
from tests.install.projects import bakery
from tests.support.paths import ROOT

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
OURS = Schemas("minutehand", "minutehand_engine")


def run(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the command from the checkout and read its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "minutehand.cli", *arguments, "--json"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}/shared", "PATH": "", "HOME": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stderr if code else done.stdout)
    return answer


def install(folder: Path, **more: Any) -> Plan:
    """Install with the defaults at a fixed instant."""
    plan = plan_install(folder, Answers(OURS, more.pop("tenants", Tenants()), **more), now=NOON)
    plan.apply()
    return plan


def contents(folder: Path) -> dict[str, str]:
    """Every file's text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_dry_run_writes_nothing_and_the_second_run_neither(tmp_path: Path) -> None:
    """The plan is what is done; done once, nothing is left to do."""
    tried = run("install", str(tmp_path), "--dry-run")
    assert contents(tmp_path) == {}

    done = run("install", str(tmp_path), "--yes")
    written = contents(tmp_path)
    again = run("install", str(tmp_path))

    assert len(tried["planned"]) == len(done["written"]) == len(written)
    assert again["written"] == []
    assert contents(tmp_path) == written
    assert tomllib.loads(written["minutehand.toml"]) == {
        "apps": ["jobs"],
        "schema": "minutehand",
        "engine_schema": "minutehand_engine",
        "tenancy": "workspaces",
    }
    assert 'schemas = ["public", "graphql_public", "minutehand"]' in written["supabase/config.toml"]


def test_in_a_terminal_it_asks(tmp_path: Path) -> None:
    """What was not given by option, each with its default."""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keys, os.fdopen(theirs) as terminal:
        keys.write(b"tasks\npersonal\n")
        done = subprocess.run(
            [sys.executable, "-m", "minutehand.cli", "install", str(tmp_path)],
            env={"PYTHONPATH": f"{ROOT}/shared", "PATH": "", "HOME": "/"},
            stdin=terminal,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "Tenancy (workspaces/existing/personal)" in done.stdout
    assert "select tasks.enqueue_job(id, 'jobs.hello'" in done.stdout
    found = tomllib.loads((tmp_path / "minutehand.toml").read_text())
    assert (found["schema"], found["tenancy"]) == ("tasks", "personal")


def test_nothing_of_theirs_is_overwritten(tmp_path: Path) -> None:
    """Files that are there stay; what only they can change is said as the exact line."""
    bakery(tmp_path)
    (tmp_path / "serverless.yml").write_text("service: bakery\n")
    before = contents(tmp_path)

    plan = install(tmp_path)

    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert '    schemas = ["public", "minutehand"]' in plan.notes[0]


def test_files_come_after_the_newest_there_and_say_where_they_are_from(tmp_path: Path) -> None:
    """Also after one that is dated tomorrow; each carries the hash of what follows."""
    bakery(tmp_path)

    plan = install(tmp_path)

    files = [write for write in plan.writes if write.path.suffix == ".sql"]
    newest_of_theirs = max(
        path.name for path in (tmp_path / "supabase/migrations").glob("*own_accounts.sql")
    )
    names = [write.path.name for write in files]
    assert names == sorted(names)
    assert names[0] > newest_of_theirs
    assert len({name[:14] for name in names}) == len(names)
    for write, found in zip(files, installed(tmp_path), strict=True):
        first, second, _ = write.text.split("\n", 2)
        assert re.fullmatch(
            rf"-- Installed by minutehand {VERSION} from engine/\d+_\w+\.sql", first
        )
        assert second == f"-- sha256 {found.found}"
        assert not found.edited


def test_a_number_that_sorts_after_every_timestamp_is_refused(tmp_path: Path) -> None:
    """The CLI compares versions as text, so no timestamp would ever follow."""
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "0001_first.sql").touch()
    assert next(iter(timestamps(tmp_path, NOON))) == "20261121120000"

    (folder / "9_last.sql").touch()
    with pytest.raises(InstallError, match="numbered 9"):
        next(iter(timestamps(tmp_path, NOON)))


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"schemas": Schemas("Minutehand", "engine")}, "bad_schema"),
        ({"schemas": Schemas("same", "same")}, "bad_schema"),
        ({"schemas": Schemas("minutehand", "public")}, "bad_schema"),
        ({"schemas": Schemas("pg_jobs", "engine")}, "bad_schema"),
        ({"package": "class"}, "bad_package"),
        ({"package": "asyncio"}, "bad_package"),
        ({"package": "my-jobs"}, "bad_package"),
    ],
)
def test_names_that_cannot_be_are_refused(answers: dict[str, Any], code: str) -> None:
    """Before anything is written."""
    with pytest.raises(InstallError) as refused:
        Answers(**{"schemas": OURS, "tenants": Tenants(), **answers})

    assert refused.value.code == code


def test_a_taken_package_or_schema_is_named(tmp_path: Path) -> None:
    """With the option that leads on."""
    (tmp_path / "jobs").mkdir()
    assert run("install", str(tmp_path), "--yes", code=1)["fix"] == "--package NAME, e.g. work"
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "20250101000000_own.sql").write_text('CREATE SCHEMA "minutehand";')
    refused = run("install", str(tmp_path), "--yes", "--package", "work", code=1)
    assert refused["fix"] == "choose another name: --schema …"
    assert not (tmp_path / "minutehand.toml").exists()

    run("install", str(tmp_path), "--yes", "--package", "work", "--schema", "tasks")
    assert "tasks.jobs" in (next(migrations.glob("*create_jobs.sql"))).read_text()
    assert run("install", str(tmp_path))["notes"] == []
    other = run("install", str(tmp_path), "--schema", "other", code=1)
    assert other["code"] == "installed_otherwise"


def test_the_own_checkout_is_not_a_project_to_install_into() -> None:
    """Its migrations are the source."""
    assert run("install", str(ROOT), "--yes", code=1)["code"] == "own_checkout"


def test_init_adds_a_processor_with_its_test(tmp_path: Path) -> None:
    """In the package that minutehand.toml names; a second time it refuses."""
    install(tmp_path)
    command = [sys.executable, "-m", "minutehand.cli", "init", "invoices.send", "--json"]
    env = {"PYTHONPATH": f"{ROOT}/shared", "PATH": "", "HOME": "/"}
    told = [
        subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]

    assert json.loads(told[0].stdout)["written"] == [
        "jobs/processors/invoices_send.py",
        "jobs/tests/test_invoices_send.py",
    ]
    assert (told[1].returncode, json.loads(told[1].stderr)["code"]) == (1, "exists")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jobs"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in ran.stdout, ran.stdout


def test_their_tables_are_found_by_their_migrations(tmp_path: Path) -> None:
    """The likeliest pair first; a project without such tables is asked to name them."""
    assert detect(bakery(tmp_path)) == [
        ("organizations(id,name)", "memberships(organization_id,user_id,role)")
    ]

    empty = tmp_path / "empty"
    empty.mkdir()
    refused = run("install", str(empty), "--yes", "--tenancy", "existing", code=1)
    assert "--memberships 'memberships(organization_id,user_id,role)'" in refused["fix"]


def test_their_tables_may_be_named_in_several_ways() -> None:
    """With a schema, with a name to show, with the roles that may pause work."""
    made = existing("app.orgs(uid, title)", "app.seats(org, person)", managers=["boss"])

    assert made == Existing(
        organization="app.orgs", key="uid", name="title", membership="app.seats",
        member_of="org", user="person", role=None, managers=("boss",),
    )  # fmt: skip
    assert existing("teams", "team_users(team_id,user_id,role)").organization == "public.teams"
    for wrong in (("a b", "m(a,b)"), ("organizations.id", "memberships"), ("o.id", "m(a)")):
        with pytest.raises(TenancyError, match="must name"):
            existing(*wrong)
    with pytest.raises(TenancyError, match="role"):
        existing("o.id", "m(a,b,c)", managers=["x'); drop table jobs; --"])


@pytest.mark.parametrize("tenants", [existing("orgs.id", "seats(org,person)"), Personal()])
def test_the_tenancy_file_takes_the_place_of_our_tables(tenants: Tenants, tmp_path: Path) -> None:
    """One file, theirs to edit; an app's foreign keys lead to their table."""
    plan = install(tmp_path, tenants=tenants, apps=("chat",))

    texts = [write.text for write in plan.writes if write.path.suffix == ".sql"]
    own = [text for text in texts if "Yours to edit" in text]
    assert len(own) == 1
    assert not any("create table minutehand.workspaces" in text for text in texts)
    table = "public.orgs (id)" if tenants.kind == "existing" else "auth.users (id)"
    assert any(f"references {table} on delete cascade" in text for text in texts)
    assert not any(re.search(r"(references|from) minutehand\.workspaces", text) for text in texts)
    [path] = (tmp_path / "supabase/migrations").glob(f"*_{tenants.kind}.sql")
    path.write_text(f"{path.read_text()}-- closed ones do not count\n")
    assert plan_upgrade(tmp_path, now=NOON).writes == ()


def test_an_app_may_follow_later(tmp_path: Path) -> None:
    """Its files come after those that are there, and its line for minutehand.toml is said."""
    install(tmp_path)
    done = run("install", str(tmp_path), "--app", "chat")

    assert len(done["written"]) == len(list(ROOT.glob("shared/minutehand/apps/chat/migrations/*")))
    assert 'apps = ["jobs", "minutehand.apps.chat"]' in done["notes"][0]
    assert run("install", str(tmp_path), "--app", "no", code=1)["code"] == "no_app"


def test_an_edited_file_stops_an_upgrade(tmp_path: Path) -> None:
    """It says which and how to go on; kept as it is only when that is asked for."""
    install(tmp_path)
    edited = next((tmp_path / "supabase/migrations").glob("*create_jobs.sql"))
    last = max((tmp_path / "supabase/migrations").glob("*.sql"))
    edited.write_text(f"{edited.read_text()}-- mine\n")
    last.unlink()

    refused = run("upgrade", str(tmp_path), code=1)
    assert (refused["code"], edited.name in refused["fix"]) == ("edited", True)
    done = run("upgrade", str(tmp_path), "--keep-edited")
    assert [name.partition("_minutehand_")[2] for name in done["written"]] == [
        last.name.partition("_minutehand_")[2]
    ]
    assert edited.read_text().endswith("-- mine\n")


def test_an_upgrade_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """No install, a newer one, or files of another build under the same name."""
    assert run("upgrade", str(tmp_path), code=1)["code"] == "not_installed"
    assert run("uninstall", str(tmp_path), code=1)["code"] == "not_installed"
    install(tmp_path)
    toml = tmp_path / "minutehand.toml"
    answers = toml.read_text()
    toml.write_text(answers.replace('"minutehand_engine"', '"elsewhere"'))
    assert run("upgrade", str(tmp_path), code=1)["code"] == "other_build"
    toml.write_text(answers)
    path = next((tmp_path / "supabase/migrations").glob("*create_jobs.sql"))
    path.write_text(
        path.read_text().replace(f"minutehand {VERSION} from", "minutehand 99.0.0 from")
    )
    assert run("upgrade", str(tmp_path), code=1)["fix"] == 'pip install "minutehand>=99.0.0"'


def test_the_changelog_is_cut_between_two_versions() -> None:
    """What is not released yet is not told."""
    newest = "# Changelog\n\n## [Unreleased]\n- d\n\n## [0.10.0] - x\n- c\n\n"
    text = f"{newest}## [0.9.1]\n- b\n\n## 0.9.0\n- a\n"

    assert sections_between(text, "0.9.0", "0.10.0") == "## [0.10.0] - x\n- c\n\n## [0.9.1]\n- b"
    assert sections_between(text, "0.10.0", "0.10.0") == ""


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Between the plan and its writing."""
    path = tmp_path / "x"
    path.write_text("theirs")

    with pytest.raises(InstallError, match="by now"):
        Plan((Write(path, "ours"),)).apply()
    assert path.read_text() == "theirs"
