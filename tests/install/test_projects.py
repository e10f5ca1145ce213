"""The wheel is installed into an ordinary project, runs a job, is upgraded and is removed.

The real Supabase CLI pushes the migrations. The project has extensions, storage, a seed, its own
table `jobs` and organizations. test_corpus.py tests other projects.
"""

import re
from pathlib import Path

import pytest

from infra.release.supabase_cli import push
from infra.release.wheels import Environment
from minutehand.install.project import DECLARED, InstallOptions, plan_install
from minutehand.install.rewrite import Schemas
from minutehand.install.tenancy import Tenants
from minutehand.version import VERSION
from tests.install.projects import WORK, Api, HostedDatabase, data_api
from tests.support.engine import ACME, ADA, EVE, GLOBEX
from tests.support.stranger import THEIRS, bakery

# The timeout is long, because the first test builds the wheels and installs the CLI.
pytestmark = pytest.mark.timeout(900)
#: A query of the rights that would prevent a drop of the worker's role.
LEFT_RIGHTS = """
select d.classid::regclass, d.objid from pg_shdepend as d join pg_roles as r on r.oid = d.refobjid
where r.rolname = 'job_worker'
  and d.dbid = (select oid from pg_database where datname = current_database())
"""


def test_an_ordinary_project_from_its_first_install_through_an_upgrade(
    environment: Environment, newer: Environment, hosted: HostedDatabase, tmp_path: Path
) -> None:
    """A project installs, runs a job, upgrades and removes the engine.

    Its own tables, files and configuration do not change, and its organizations are the tenants.
    """
    project = bakery(tmp_path)
    assert "own_accounts" in push(project, hosted.owner_url, "--include-seed")
    before = hosted.everything()
    theirs = contents(project)

    tried = environment.minutehand(project, "install", *THEIRS, "--dry-run")
    assert contents(project) == theirs
    done = environment.minutehand(project, "install", *THEIRS)
    assert tried["planned"] == done["written"]
    assert 'schemas = ["public", "minutehand"]' in done["notes"][0]
    assert {name: contents(project)[name] for name in theirs} == theirs
    assert environment.minutehand(project, "install")["written"] == []
    push(project, hosted.owner_url)
    assert "up to date" in push(project, hosted.owner_url)

    installed = hosted.everything()
    assert set(before) <= set(installed)
    new = "\n".join(line for line in installed if line not in before)
    assert re.findall(r"-- Name: (.*; Schema: (?!minutehand|-).*); Owner", new) == [
        "organizations minutehand_before_delete; Type: TRIGGER; Schema: public",
        "messages minutehand: members and guests follow; Type: POLICY; Schema: realtime",
    ]
    with data_api(hosted, "minutehand") as api:
        environment.run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jobs")
        job_id = run_job(environment, project, api)
        stranger = api.of(EVE)
        assert stranger.rpc("cancel_job", job_id=job_id).status_code == 404
        assert stranger.rows("jobs") == []
        assert [row["id"] for row in stranger.rows("workspaces")] == [GLOBEX]
        hosted.run("update memberships set role = 'guest' where user_id = %s", ADA)
        assert api.of(ADA).rows("jobs") == []
        assert [row["title"] for row in api.of(EVE, "public").rows("jobs")] == ["Baker"]

        upgraded = newer.minutehand(project, "upgrade")
        assert len(upgraded["written"]) == 2, "calls wait for the upgrade"
        assert newer.minutehand(project, "upgrade")["written"] == []
        push(project, hosted.owner_url)
        assert hosted.run("select minutehand_engine.greetings()") == [(1,)]
        hosted.run("update memberships set role = 'owner' where user_id = %s", ADA)
        run_job(newer, project, api)
    hosted.run("delete from public.organizations where id = %s", ACME)
    assert hosted.run("select count(*) from minutehand.jobs") == [(0,)]

    hosted.as_owner(newer.minutehand(project, "uninstall")["sql"])
    assert hosted.run(LEFT_RIGHTS) == []
    assert hosted.everything() == before


def test_an_edited_part_stops_an_upgrade(environment: Environment, tmp_path: Path) -> None:
    """An upgrade stops if the project has edited the engine's migration.

    The project may edit the views of its tenants.
    """
    project = bakery(tmp_path)
    environment.minutehand(
        project, "install", *THEIRS[2:]
    )  # the names of the tables select the tenancy
    [file] = (project / "supabase/migrations").glob("*_minutehand_*.sql")
    edited = file.read_text().replace(
        "from public.organizations as o", "from public.organizations as o where true"
    )
    file.write_text(edited)
    assert environment.minutehand(project, "upgrade")["written"] == []

    file.write_text(edited.replace("create table minutehand.jobs (", "create table jobs ("))
    error = environment.minutehand(project, "upgrade", code=1)
    assert (error["code"], file.name in error["fix"]) == ("edited", True)
    assert environment.minutehand(project, "upgrade", "--keep-edited")["since"] == VERSION


def contents(folder: Path) -> dict[str, str]:
    """Return the texts of all files in a folder, without Python's byte code."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".temp" not in path.parts
    }


def run_job(environment: Environment, project: Path, api: Api) -> str:
    """Enqueue a job through the Data API, run the project's processor, and return the job's id."""
    arguments = {"workspace_id": ACME, "job_type": "jobs.hello", "payload": {"name": "Ada"}}
    response = api.of(ADA).rpc("enqueue_job", **arguments)
    assert response.status_code == 200, response.text
    environment.run(project, "-c", WORK, env=api.env)

    [job] = api.of(ADA).rows("jobs", id=f"eq.{response.json()['job']['id']}")
    assert (job["status"], job["result"]) == ("completed", {"greeting": "Hello, Ada!"})
    return job["id"]


def test_a_failed_install_is_completed_with_its_options(
    environment: Environment, tmp_path: Path
) -> None:
    """An install that failed is completed by a repeat without options.

    A repeat with other options is rejected.
    """
    for obstacle in (tmp_path / "acme", tmp_path / "supabase"):
        obstacle.touch()
        options = ("--package", "acme.jobs", "--schema", "tasks")
        error = environment.minutehand(tmp_path, "install", *options, code=1)
        assert (error["code"], str(obstacle) in error["error"]) == ("exists", True)
        obstacle.unlink()

    *_, migration = environment.minutehand(tmp_path, "install")["written"]
    assert "create table tasks.jobs (" in (tmp_path / migration).read_text()
    assert (tmp_path / "acme/jobs/tests/test_hello.py").exists()
    before = contents(tmp_path)
    assert "upgrade" in environment.minutehand(tmp_path, "install", *options)["notes"][0]
    for other in ("--schema=public", "--tenancy=personal", "--without=webhooks", "--package=work"):
        error = environment.minutehand(tmp_path, "install", other, code=1)
        assert error["code"] == "installed_otherwise"
    assert contents(tmp_path) == before


def test_what_a_commit_must_not_take_is_named(environment: Environment, tmp_path: Path) -> None:
    """The install lists the lines that the project's `.gitignore` lacks."""
    ignored = tmp_path / ".gitignore"
    ignored.write_text("/node_modules\n/build\n.env*\n")
    [note] = environment.minutehand(tmp_path, "install", "--dry-run")["notes"]
    lines = [line.strip() for line in note.splitlines()[1:] if line]
    missing = ["*.env", "key.json", "__pycache__/", "supabase/.branches/", "supabase/.temp/"]
    assert lines == missing
    ignored.write_text("\n".join([*lines[:3], ignored.read_text()]))
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase/.gitignore").write_text(".branches\n.temp\n")
    assert environment.minutehand(tmp_path, "install", "--dry-run")["notes"] == []


@pytest.mark.parametrize(
    ("paths", "notes"),
    [
        ([], (DECLARED,)),
        (["./schemas/*.sql"], (DECLARED,)),
        (["./schemas/*.sql", "./migrations/*_minutehand_*.sql"], ()),
        (["./migrations/*.sql"], ()),
    ],
)
def test_a_declared_schema_is_noted(tmp_path: Path, paths: list[str], notes: tuple[str]) -> None:
    """The install warns a project with declared schemas.

    The project's next diff would drop the engine.
    """
    (tmp_path / "supabase/schemas").mkdir(parents=True)
    (tmp_path / "supabase/config.toml").write_text(f"[db.migrations]\nschema_paths = {paths}\n")
    options = InstallOptions(Schemas("public"), Tenants())
    assert plan_install(tmp_path, options).hints == notes


def test_coding_agents_read_of_the_jobs_in_the_projects_own_file(
    environment: Environment, tmp_path: Path
) -> None:
    """The install appends a section about jobs to AGENTS.md once."""
    agents = tmp_path / "AGENTS.md"
    agents.write_text("Use tabs.\n")
    environment.minutehand(tmp_path, "install", "--package", "backend/work")
    text = agents.read_text()
    environment.minutehand(tmp_path, "install")

    assert text.startswith("Use tabs.\n\n## Background jobs\n")
    assert "`backend/work/processors`" in text
    assert "minutehand enqueue work.hello" in text
    assert agents.read_text() == text
