"""What `minutehand install`, `init` and `uninstall` write, say and refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from minutehand.install.project import Answers, Plan, Write, plan_install, processor_names
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import (
    InstallError,
    installed,
    sources,
    timestamp,
)
from minutehand.install.tenancy import (
    Existing,
    Personal,
    TenancyError,
    Tenants,
    existing,
)
from minutehand.install.upgrade import plan_upgrade
from minutehand.local.state import StateFolder
from minutehand.project import keep_out_of_git
from minutehand.version import VERSION
from tests.install.projects import bakery
from tests.install.second import THIS_FILE
from tests.support.command import Run
from tests.support.paths import ROOT

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
OURS = Schemas("minutehand")


def run(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the command and read its JSON."""
    done = Run(env={"PATH": "", "HOME": "/"})(*arguments, "--json", code=code)
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
        "tenancy": "workspaces",
    }
    assert 'schemas = ["public", "graphql_public", "minutehand"]' in written["supabase/config.toml"]
    assert {name for name in written if not name.endswith(".sql")} == {
        ".gitignore", "minutehand.env.example", "minutehand.stages.yml", "minutehand.toml",
        "serverless.yml", "supabase/config.toml", "jobs/__init__.py", "jobs/processors/__init__.py",
        "jobs/processors/hello.py", "jobs/tests/__init__.py", "jobs/tests/test_hello.py",
    }  # fmt: skip
    assert written[".gitignore"].split() == [
        ".env", "secrets.env", "key.json", "__pycache__/", ".venv/",
    ]  # fmt: skip
    settings = written["minutehand.env.example"]
    assert settings.endswith("MINUTEHAND_APPS=jobs\nMINUTEHAND_SCHEMA=minutehand\n")


def test_a_repository_within_another_project_is_a_project_of_its_own(tmp_path: Path) -> None:
    """Its own beginning is where the search for `supabase` ends."""
    outer, inner = tmp_path / "supabase" / "config.toml", tmp_path / "inner"
    outer.parent.mkdir()
    outer.write_text('project_id = "outer"\n')
    (inner / ".git").mkdir(parents=True)

    run("install", str(inner), "--yes")

    assert list(outer.parent.iterdir()) == [outer]
    assert list((inner / "supabase" / "migrations").iterdir())


def test_what_holds_secrets_stays_out_of_git(tmp_path: Path) -> None:
    """The stack's folder, what the packager builds, the files that the pages let one write."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    install(tmp_path)
    StateFolder(tmp_path / ".local").secrets()
    keep_out_of_git(tmp_path / "build" / "aws")
    for name in ("secrets.env", "key.json", ".env", "build/aws/secrets.json"):
        (tmp_path / name).write_text("secret")

    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    listed = subprocess.check_output(["git", "ls-files"], cwd=tmp_path, text=True)

    assert not re.search(r"secret|key\.json|\.local|^\.env", listed, re.MULTILINE), listed


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("*.log\n", ["In .gitignore:\n\n    .env\n    secrets.env\n    key.json"]),
        (".env\n /key.json \n", ["In .gitignore:\n\n    secrets.env"]),
        ("*.env\nkey.json\n", []),
    ],
)
def test_a_gitignore_of_theirs_is_not_changed(tmp_path: Path, theirs: str, said: list[str]) -> None:
    """The lines it lacks are printed."""
    (tmp_path / ".gitignore").write_text(theirs)

    plan = install(tmp_path)

    assert list(plan.notes) == said
    assert (tmp_path / ".gitignore").read_text() == theirs


def test_who_the_tenants_are_is_answered_once(tmp_path: Path) -> None:
    """Options that come late are said to change nothing; without the file they are asked again."""
    bakery(tmp_path)
    existing_ones = ("install", str(tmp_path), "--yes", "--tenancy", "existing")
    run(*existing_ones)
    [file] = (tmp_path / "supabase" / "migrations").glob("*_minutehand_*.sql")

    late = run(*existing_ones, "--members", "baker")
    assert late["written"] == []
    assert any("those options change nothing" in note for note in late["notes"])
    assert not any("change nothing" in note for note in run(*existing_ones)["notes"])

    file.unlink()
    tables = (
        "--organizations",
        "notes.id",
        "--memberships",
        "memberships(organization_id,user_id)",
    )
    [name] = run("install", str(tmp_path), "--yes", *tables)["written"]
    assert "from public.notes as o" in (tmp_path / name).read_text()

    (tmp_path / name).unlink()
    some = ("--organizations", "notes.id", "--managers", "owner, chief", "--members", " baker")
    [name] = run("install", str(tmp_path), "--yes", *some)["written"]
    text = (tmp_path / name).read_text()
    for said in ("from public.notes as o", "from public.memberships as m", "in ('owner', 'chief')"):
        assert said in text
    assert "in ('baker')" in text


def test_a_role_that_has_nothing_is_named(tmp_path: Path) -> None:
    """Before the install, beside the tables that could be the tenants, and at it."""
    bakery(tmp_path)
    first = tmp_path / "supabase/migrations/20250101120000_create_bakery.sql"
    text = first.read_text().replace("role text not null default 'member'", "role public.hand")
    first.write_text(f"create type public.hand as enum ('owner', 'member', 'baker');\n{text}")

    for options in ((), ("--tenancy", "existing")):
        notes = run("install", str(tmp_path), "--yes", "--dry-run", *options)["notes"]
        assert any("the roles baker have nothing" in note for note in notes)


def test_a_package_within_others_has_a_first_job(tmp_path: Path) -> None:
    """The command that is printed names its type."""
    said = Run(env={"PATH": "", "HOME": "/"})(
        "install", str(tmp_path), "--yes", "--package", "src/acme.background"
    ).stdout

    assert "minutehand enqueue background.hello" in said
    written = contents(tmp_path)
    assert '"background.hello"' in written["src/acme/background/processors/hello.py"]
    answers = tomllib.loads(written["minutehand.toml"])
    assert (answers["source"], answers["apps"]) == ("src", ["acme.background"])
    assert (
        "from acme.background.processors.hello import Hello, hello"
        in (written["src/acme/background/tests/test_hello.py"])
    )
    deep = ("install", str(tmp_path / "new"), "--package", "apps/api/acme.jobs", "--dry-run")
    (tmp_path / "new" / ".git").mkdir(parents=True)
    assert "apps/api/acme/jobs/processors/hello.py" in run(*deep)["planned"]


@pytest.mark.parametrize(
    ("package", "job_type", "module", "function", "model"),
    [
        ("jobs", "jobs.hello", "hello", "hello", "Hello"),
        ("jobs", "invoices.send_now", "invoices_send_now", "send_now_invoices", "SendNowInvoices"),
        ("acme.jobs", "jobs.hello", "hello", "hello", "Hello"),
        ("acme.jobs", "acme.hello", "acme_hello", "hello_acme", "HelloAcme"),
    ],
)
def test_a_processor_is_named_after_its_job_type(
    package: str, job_type: str, module: str, function: str, model: str
) -> None:
    """Without the package's own name, which its path says already."""
    assert processor_names(package, job_type) == {
        "package": package,
        "module": module,
        "job_type": job_type,
        "function": function,
        "model": model,
    }


def test_in_a_terminal_it_asks(tmp_path: Path) -> None:
    """What was not given by option, each with its default."""
    ours, theirs = os.openpty()
    bakery(tmp_path / "bakery")
    with os.fdopen(ours, "wb", buffering=0) as keys, os.fdopen(theirs) as terminal:

        def answer(folder: Path, *more: str) -> str:
            return subprocess.run(
                [sys.executable, "-m", "minutehand.cli", "install", str(folder), *more],
                env={"PYTHONPATH": f"{ROOT}/shared", "PATH": "", "HOME": "/"},
                stdin=terminal,
                capture_output=True,
                text=True,
                check=False,
            ).stdout

        keys.write(b"tasks\npersonal\n")
        tried = answer(tmp_path, "--dry-run")
        assert "would write minutehand.toml" in tried
        assert "Tenancy" not in tried, "nothing is asked where nothing is written"
        assert "Next:" not in tried
        told = answer(tmp_path)
        keys.write(b"\n\n\n\n")
        of_tables = answer(tmp_path / "bakery")

    assert "Tenancy (workspaces/existing/personal)" in told
    assert 'schema = "tasks"' in (tmp_path / "minutehand.toml").read_text()
    assert "minutehand enqueue jobs.hello" in told
    found = tomllib.loads((tmp_path / "minutehand.toml").read_text())
    assert (found["schema"], found["tenancy"]) == ("tasks", "personal")
    assert "Tenancy (existing/workspaces/personal)" in of_tables
    assert 'tenancy = "existing"' in (tmp_path / "bakery" / "minutehand.toml").read_text()


def test_nothing_of_theirs_is_overwritten(tmp_path: Path) -> None:
    """Files that are there stay; what only they can change is said as the exact line."""
    bakery(tmp_path)
    (tmp_path / "serverless.yml").write_text("service: bakery\n")
    (tmp_path / "minutehand.stages.yml").write_text("# of minutehand\nprod:\n")
    before = contents(tmp_path)

    plan = install(tmp_path)

    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert '    schemas = ["public", "minutehand"]' in plan.notes[0]
    assert [note.partition(" is yours")[0] for note in plan.notes[1:]] == ["serverless.yml"]


@pytest.mark.parametrize(("clients", "exposed"), [("public", []), ("tasks", ["tasks"])])
def test_a_configuration_of_the_cli_exposes_the_schema(
    clients: str, exposed: list[str], tmp_path: Path
) -> None:
    """One of ours where there is none; theirs must be TOML, and may leave it to the CLI."""
    answers = Answers(Schemas(clients), Tenants())
    folder = tmp_path / "My Shop!"
    plan_install(folder, answers, now=NOON).apply()
    path = folder / "supabase" / "config.toml"

    made = tomllib.loads(path.read_text())
    assert made["project_id"] == "my-shop"
    assert made["api"]["schemas"] == ["public", "graphql_public", *exposed]
    assert made["db"] == {"major_version": 17}
    [other] = [
        write.text
        for write in plan_install(tmp_path / "!!!", answers, now=NOON).writes
        if write.path.name == "config.toml"
    ]
    assert tomllib.loads(other)["project_id"] == "app"
    assert plan_install(folder, answers, now=NOON) == Plan(())
    path.write_text('project_id = "x"')
    notes = "".join(plan_install(folder, answers, now=NOON).notes)
    assert ('schemas = ["public", "graphql_public", "tasks"]' in notes) is bool(exposed)
    for broken in (b"[api", b'project_id = "caf\xe9"'):
        path.write_bytes(broken)
        with pytest.raises(InstallError, match="is not TOML") as refused:
            plan_install(folder, answers, now=NOON)
        assert (refused.value.code, refused.value.fix) == ("bad_config", "correct it")


def test_files_of_theirs_may_be_in_any_encoding(tmp_path: Path) -> None:
    """They are searched for a few words of ASCII; what we wrote may have a byte order mark."""
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    for name in (".gitignore", "serverless.yml", "supabase/migrations/20250101000000_own.sql"):
        (tmp_path / name).write_bytes(b"-- caf\xe9")
    (folder / "20990101000000_folder.sql").mkdir()

    install(tmp_path)

    own, ours = sorted(path for path in folder.iterdir() if path.is_file())
    ours.write_text(ours.read_text(), "utf-8-sig")
    assert own.name not in removal_sql(tmp_path)
    assert plan_upgrade(tmp_path, now=NOON).writes == ()


def test_an_install_is_one_file_that_says_what_is_in_it(tmp_path: Path) -> None:
    """Stamped now, so that the next `supabase migration new` has a later number."""
    install(tmp_path)

    [path] = (tmp_path / "supabase/migrations").glob("*.sql")
    assert path.name == f"20261121120000_{THIS_FILE}.sql"
    assert path.read_text().startswith(f"-- Installed by minutehand {VERSION}. ")
    parts = installed(tmp_path)
    assert len(parts) == len(list((ROOT / "supabase/migrations").glob("*.sql")))
    assert all(part.expected and not part.edited for part in parts)
    with pytest.raises(InstallError, match="installed here with") as refused:
        install(tmp_path, tenants=Personal())
    assert refused.value.code == "installed_otherwise"


def test_a_file_of_tomorrow_comes_before(tmp_path: Path) -> None:
    """The CLI takes only what is later than the newest that was applied."""
    bakery(tmp_path)

    install(tmp_path)

    names = sorted(path.name for path in (tmp_path / "supabase/migrations").glob("*.sql"))
    assert [name.partition("_")[2] for name in names[-2:]] == [
        "own_accounts.sql",
        f"{THIS_FILE}.sql",
    ]


def test_a_number_that_sorts_after_every_timestamp_is_refused(tmp_path: Path) -> None:
    """The CLI compares versions as text, so no timestamp would ever follow."""
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / "0001_first.sql").touch()
    for now in (NOON, NOON.astimezone(timezone(timedelta(hours=5)))):
        assert timestamp(tmp_path, now) == "20261121120000"
    for newest, after in (
        ("20261121120000", "20261121120001"),
        ("20261121120059", "20261121120100"),
    ):
        (folder / f"{newest}_newest.sql").touch()
        assert timestamp(tmp_path, NOON) == after

    (folder / "9_last.sql").touch()
    with pytest.raises(InstallError, match="numbered 9") as refused:
        timestamp(tmp_path, NOON)
    assert refused.value.code == "unusual_version"


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"schemas": Schemas("Minutehand")}, "bad_schema"),
        ({"schemas": Schemas("pg_jobs")}, "bad_schema"),
        ({"schemas": Schemas("s" * 52)}, "bad_schema"),
        ({"package": "minutehand"}, "bad_package"),
        ({"package": "acme.Jobs"}, "bad_package"),
        ({"package": "1jobs"}, "bad_package"),
        ({"package": "class"}, "bad_package"),
        ({"package": "asyncio"}, "bad_package"),
        ({"package": "supabase"}, "bad_package"),
        ({"package": "my-jobs"}, "bad_package"),
        ({"package": "backend.class"}, "bad_package"),
    ],
)
def test_names_that_cannot_be_are_refused(answers: dict[str, Any], code: str) -> None:
    """Before anything is written."""
    with pytest.raises(InstallError) as refused:
        Answers(**{"schemas": OURS, "tenants": Tenants(), **answers})

    assert refused.value.code == code
    longest = Answers(Schemas("s" * 44), Tenants(), package="_a.b2_")
    assert (longest.apps, longest.source) == ((), "")


def test_a_taken_package_or_schema_is_named(tmp_path: Path) -> None:
    """With the option that leads on."""
    migrations = tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    own = migrations / "20250101000000_own.sql"
    for text, option in (
        ("create schema if not exists minutehand_engine;", "another name: --schema …"),
        ('CREATE SCHEMA "minutehand";', "another name: --schema …"),
        ("create schema minutehand_too; create schema public;", None),
    ):
        own.write_text(text)
        for taken in ("jobs.py", "jobs"):
            (tmp_path / taken).touch()
            with pytest.raises(InstallError) as refused:
                install(tmp_path)
            assert (option or "--package NAME, e.g. work") in refused.value.fix
            (tmp_path / taken).unlink()
    own.write_text('CREATE SCHEMA "minutehand";')
    assert not (tmp_path / "minutehand.toml").exists()

    run("install", str(tmp_path), "--yes", "--package", "work", "--schema", "tasks")
    assert "tasks.jobs" in (next(migrations.glob("*_minutehand_*.sql"))).read_text()
    assert run("install", str(tmp_path))["notes"] == []
    assert run("install", str(tmp_path), "--package", "other")["written"] == []
    other = run("install", str(tmp_path), "--schema", "other", code=1)
    assert other["code"] == "installed_otherwise"


def test_the_own_checkout_is_not_a_project_to_install_into() -> None:
    """Its migrations are the source."""
    assert run("install", str(ROOT), "--yes", code=1)["code"] == "own_checkout"
    within = run("install", str(ROOT / "tests" / "fixtures"), "--dry-run")
    assert {"minutehand.toml", "supabase/config.toml"} <= {*within["planned"]}


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
    again = json.loads(told[1].stderr)
    assert (told[1].returncode, again["code"]) == (1, "exists")
    assert again["error"] == "jobs/processors/invoices_send.py already exists"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jobs"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in ran.stdout, ran.stdout


def test_their_tables_may_be_named_in_several_ways() -> None:
    """With a schema, with a name to show, with the roles that may pause work."""
    made = existing("app.orgs(uid, title)", "app.seats(org, person)", managers=["boss"])

    assert made == Existing(
        organization="app.orgs", key="uid", name="title", membership="app.seats",
        member_of="org", user="person", role=None, managers=("boss",),
    )  # fmt: skip
    assert made.options == ("app.orgs(uid,title)", "app.seats(org,person)")
    assert "select m.org as workspace_id, m.person as user_id,\n    'member'::text as role\n" \
        "  from app.seats as m;" in made.migration(OURS)  # fmt: skip
    quoted = existing('"Team"', "public.seats(teamId,userId,role)", members=["x"])
    assert quoted == Existing(
        organization='public."Team"', membership="public.seats", member_of="teamId", user="userId",
        role="role", members=("x",),
    )  # fmt: skip
    assert quoted.options == ("Team(id)", "seats(teamId,userId,role)")
    joined = replace(quoted, join="nr", profile=("app.people", "id", "account")).migration(OURS)
    managers = "m.role::text in ('owner', 'admin', 'manager')"
    for view in (
        'select o.id as id, o.id::text as name\n  from public."Team" as o;',
        "select o.id as workspace_id, p.account as user_id,\n"
        f"    case when {managers} then 'manager' else 'member' end as role\n"
        '  from public.seats as m\n  join public."Team" as o on o.nr = m."teamId"\n'
        '  join app.people as p on p.id = m."userId"\n'
        f"  where {managers} or m.role::text in ('x');",
        'after delete on public."Team"\n'
        "  for each row execute function minutehand_engine.tenant_deleted('id');",
    ):
        assert view in joined
    for wrong in (
        ("a b", "m(a,b)"), ("organizations.id", "memberships"), ("o.id", "m(a)"),
        ("o.id", "m(a,b,c,d)"),
    ):  # fmt: skip
        with pytest.raises(TenancyError, match="must name"):
            existing(*wrong)
    with pytest.raises(TenancyError, match="role"):
        existing("o.id", "m(a,b,c)", managers=["x'); drop table jobs; --"])
    with pytest.raises(TenancyError, match="role"):
        existing("o.id", "m(a,b,c)", members=["x'); drop table jobs; --"])


@pytest.mark.parametrize("tenants", [existing("orgs.uid", "seats(org,person)"), Personal()])
def test_the_tenancy_file_takes_the_place_of_our_tables(tenants: Tenants, tmp_path: Path) -> None:
    """One file, theirs to edit; an app's foreign keys lead to their table."""
    plan = install(tmp_path, tenants=tenants, apps=("chat",))

    texts = [write.text for write in plan.writes if write.path.suffix == ".sql"]
    assert [text.count("Yours to edit") for text in texts] == [1]
    assert not any("create table minutehand.workspaces" in text for text in texts)
    table = "public.orgs (uid)" if tenants.kind == "existing" else "auth.users (id)"
    assert any(f"references {table} on delete cascade" in text for text in texts)
    for when in ("before", "after"):
        trigger = f"create trigger minutehand_{when}_delete {when} delete on {table.split()[0]}\n"
        assert [text.count(trigger) for text in texts] == [1]
    assert not any(re.search(r"(references|from) minutehand\.workspaces", text) for text in texts)
    [path] = (tmp_path / "supabase/migrations").glob("*.sql")
    path.write_text(path.read_text().replace("-- a tenant's jobs go with it", "-- not closed ones"))
    assert plan_upgrade(tmp_path, now=NOON).writes == ()


def test_an_app_may_follow_later(tmp_path: Path) -> None:
    """Its files come after those that are there, and its line for minutehand.toml is said."""
    install(tmp_path)
    done = run("install", str(tmp_path), "--app", "chat")

    assert [name.partition("_")[2] for name in done["written"]] == [f"{THIS_FILE}_chat.sql"]
    assert 'apps = ["jobs", "minutehand_apps.chat"]' in done["notes"][0]
    toml = tmp_path / "minutehand.toml"
    toml.write_text(toml.read_text().replace('["jobs"]', '["minutehand_apps.chat", "jobs"]'))
    assert run("install", str(tmp_path))["written"] == [], "an app of ours is not their package"
    names = [each.origin.partition("/")[2] for each in sources(OURS, Tenants(), ["chat"])]
    assert names == sorted(names), "what the engine adds later may need what an app has made"
    refused = run("install", str(tmp_path), "--app", "no", code=1)
    assert (refused["code"], "chat, " in refused["fix"]) == ("no_app", True)
    settings = plan_install(
        tmp_path / "other", Answers(OURS, Tenants(), apps=("training", "chat")), now=NOON
    )
    texts = {write.path.name: write.text for write in settings.writes}
    modules = ["jobs", "minutehand_apps.training", "minutehand_apps.chat"]
    assert f"MINUTEHAND_APPS={','.join(modules)}\n" in texts["minutehand.env.example"]
    assert tomllib.loads(texts["minutehand.toml"])["apps"] == modules
    [name] = [
        write.path.name
        for write in plan_install(
            tmp_path, Answers(OURS, Tenants(), apps=("training", "beacon")), now=NOON
        ).writes
    ]
    assert name.endswith(f"{THIS_FILE}_beacon_training.sql")


def test_without_any_app_the_clone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel has none."""
    monkeypatch.setattr("minutehand.install.sources.offered_apps", dict)

    with pytest.raises(InstallError, match="unknown app 'chat'") as refused:
        sources(OURS, Tenants(), ["chat"])
    assert "clone" in refused.value.fix


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Between the plan and its writing."""
    path = tmp_path / "x"
    path.write_text("theirs")

    with pytest.raises(InstallError, match="by now"):
        Plan((Write(path, "ours"),)).apply()
    assert path.read_text() == "theirs"
