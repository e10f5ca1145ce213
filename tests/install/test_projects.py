"""From a wheel to a finished job in three projects that are not ours, and out again.

Each: install, push by the real Supabase CLI, a job through the Data API, a stranger's 404, upgrade
to a made-up 0.1.1, removal that leaves nothing.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from infra.release.upgrades import WORK
from infra.release.wheels import Environment
from tests.install.projects import (
    ACME,
    ADA,
    EVE,
    GLOBEX,
    Client,
    Hosted,
    HostedDatabase,
    bakery,
    data_api,
)

#: What would keep the worker's role from being dropped.
LEFT_RIGHTS = """
select d.classid::regclass, d.objid from pg_shdepend as d join pg_roles as r on r.oid = d.refobjid
where r.rolname = 'job_worker'
  and d.dbid = (select oid from pg_database where datname = current_database())
"""


def test_a_project_with_organizations_of_its_own(
    environment: Environment, newer: Environment, hosted: Hosted, tmp_path: Path
) -> None:
    """(a) Tables jobs and accounts, a package `shared`, a file of tomorrow: all stay theirs."""
    project = bakery(tmp_path)
    with hosted.database() as database:
        assert "own_accounts" in database.push(project)
        before, own = database.everything(), database.own_catalogue()

        done = environment.minutehand(project, "install", "--yes", "--tenancy", "existing")
        assert 'schemas = ["public", "minutehand"]' in done["notes"][0]
        assert (project / "supabase/config.toml").read_text().count("minutehand") == 0
        push_twice(database, project)

        found = set(database.own_catalogue()) ^ set(own)
        theirs = [line for line in found if not line.startswith(("policy realtime.", "role "))]
        made = [re.sub(r".*CREATE TRIGGER (.*) FOR EACH.*", r"\1", line) for line in sorted(theirs)]
        assert made == [
            "minutehand_after_delete AFTER DELETE ON public.organizations",
            "minutehand_before_delete BEFORE DELETE ON public.organizations",
        ]
        database.sign_up()
        for organization, user in ((ACME, ADA), (GLOBEX, EVE)):
            database.run("insert into public.organizations values (%s, %s)", organization, user)
            database.run(
                "insert into public.memberships values (%s, %s, 'owner')", organization, user
            )
        with data_api(database, "minutehand") as api:
            run_with_their_app(environment, project, api.of(ADA), ACME, api.env)
            check_stranger(api.of(ADA), api.of(EVE), ACME)
            assert [row["title"] for row in api.of(EVE, "public").rows("jobs")] == ["Baker"]
        upgrade_to_second(newer, project, database)
        database.run("delete from public.organizations where id = %s", ACME)
        assert database.run("select count(*) from minutehand.jobs") == [(0,)]

        remove(newer, project, database)
        assert database.everything() == before
        assert "up to date" in database.push(project)


def test_an_empty_folder(
    environment: Environment, newer: Environment, hosted: Hosted, tmp_path: Path
) -> None:
    """(b) Nothing is there: the CLI's layout, workspaces of ours, in public as our guides say."""
    with hosted.database() as database:
        before = database.everything()
        environment.minutehand(tmp_path, "install", "--yes", "--schema", "public")
        push_twice(database, tmp_path)
        database.sign_up()
        for workspace, user in ((ACME, ADA), (GLOBEX, EVE)):
            database.run("insert into public.workspaces values (%s, %s)", workspace, user)
            database.run(
                "insert into public.workspace_members values (%s, %s, 'manager')", workspace, user
            )
        with data_api(database, "public") as api:
            run_drained(environment, tmp_path, api.of(ADA), ACME, api.env)
            check_stranger(api.of(ADA), api.of(EVE), ACME)
        upgrade_to_second(newer, tmp_path, database)

        remove(newer, tmp_path, database)
        assert database.everything() == before


def test_an_app_for_single_users(
    environment: Environment, newer: Environment, hosted: Hosted, tmp_path: Path
) -> None:
    """(c) Each user is a tenant by the same id; no table says so."""
    with hosted.database() as database:
        before = database.everything()
        environment.minutehand(tmp_path, "install", "--yes", "--tenancy", "personal")
        push_twice(database, tmp_path)
        database.sign_up()
        with data_api(database, "minutehand") as api:
            ada = api.of(ADA)
            run_drained(environment, tmp_path, ada, ADA, api.env)
            check_stranger(ada, api.of(EVE), ADA)
            assert ada.rows("workspaces") == [{"id": ADA, "name": "ada@acme.test"}]
        upgrade_to_second(newer, tmp_path, database)
        database.run("delete from auth.users where id = %s", ADA)
        assert database.run("select count(*) from minutehand.jobs") == [(0,)]

        remove(newer, tmp_path, database)
        assert database.everything() == before


def push_twice(database: HostedDatabase, project: Path) -> None:
    """The CLI takes the files, and has nothing to do afterwards."""
    assert "minutehand_create_foundation" in database.push(project)
    assert "up to date" in database.push(project)


def enqueue(client: Client, tenant: str, name: str) -> str:
    """Enqueue as the user; the type is known since the first tick."""
    answer = client.rpc(
        "enqueue_job", workspace_id=tenant, job_type="jobs.hello", payload={"name": name}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job"]["id"])


def run_drained(
    environment: Environment, project: Path, client: Client, tenant: str, env: dict[str, str]
) -> None:
    """The scaffolded processor: its own test passes, and its job is done through the Data API."""
    environment.run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jobs")
    environment.run(project, "-c", WORK, env=env)  # registers the type
    job_id = enqueue(client, tenant, "Ada")
    environment.run(project, "-c", WORK, env=env)

    [job] = client.rows("jobs", id=f"eq.{job_id}")
    assert (job["status"], job["result"]) == ("completed", {"greeting": "Hello, Ada!"})


def run_with_their_app(
    environment: Environment, project: Path, client: Client, tenant: str, env: dict[str, str]
) -> None:
    """The worker runs inside their FastAPI application, beside their own package `shared`."""
    environment.run(project, "-c", WORK, env=env)
    serving = subprocess.Popen(
        [environment.python, "serve.py"],
        cwd=project,
        env={**env, "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    try:
        assert serving.stdout.readline() == "120\n"
        job_id = enqueue(client, tenant, "Ada")
        give_up = time.monotonic() + 60
        while (found := client.rows("jobs", id=f"eq.{job_id}"))[0]["status"] != "completed":
            assert time.monotonic() < give_up, found
            time.sleep(0.1)
    finally:
        out, _ = serving.communicate("\n", timeout=60)
    assert (serving.returncode, found[0]["result"]) == (0, {"greeting": "Hello, Ada!"}), out


def check_stranger(ada: Client, eve: Client, tenant: str) -> None:
    """Another tenant's user learns nothing, not even that there is something."""
    [job, *_] = ada.rows("jobs")
    asked = [
        eve.rpc("enqueue_job", workspace_id=tenant, job_type="jobs.hello", payload={"name": "E"}),
        eve.rpc("get_job", job_id=job["id"]),
        eve.rpc("cancel_job", job_id=job["id"]),
        eve.rpc("explain_job", job_id=job["id"]),
    ]

    assert [answer.status_code for answer in asked] == [404] * 4
    assert eve.rows("jobs") == []
    assert [row["id"] for row in eve.rows("workspaces")] != [tenant]
    assert [row["workspace_id"] for row in ada.rows("workspace_members")] == [tenant]


def upgrade_to_second(newer: Environment, project: Path, database: HostedDatabase) -> None:
    """0.1.1 adds one file, says what is new, and has nothing to do the second time."""
    tried = newer.minutehand(project, "upgrade", "--dry-run")
    done = newer.minutehand(project, "upgrade")
    again = newer.minutehand(project, "upgrade")

    # the name begins with the second in which it was asked for
    [would], [did] = (
        [name.partition("_")[2] for name in said["planned"]] for said in (tried, done)
    )
    assert would == did
    assert [len(said["written"]) for said in (tried, done, again)] == [0, 1, 0]
    assert "Greetings are counted." in done["changes"]
    assert "Everything." not in done["changes"]
    assert database.push(project).count("_minutehand_count_greetings.sql") == 1
    assert "up to date" in database.push(project)


def remove(environment: Environment, project: Path, database: HostedDatabase) -> None:
    """The printed SQL, run as the dashboard does, then the files it lists."""
    sql = environment.minutehand(project, "uninstall")["sql"]
    database.as_owner(sql)
    assert database.run(LEFT_RIGHTS) == []
    for line in sql.splitlines():
        if line.startswith("-- supabase/migrations/"):
            (project / line.removeprefix("-- ")).unlink()
    database.run("delete from auth.users")
