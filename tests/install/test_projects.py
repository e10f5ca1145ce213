"""From wheel and archive to a finished job in projects that are not ours, and out again.

Each: install, push by the real Supabase CLI, a job and one over an own table through the Data API,
a stranger's 404, upgrade to a made-up next release, removal that leaves nothing.

| Project | Journey |
|---|---|
| own tenancy, later migrations, seed | `test_a_project_with_organizations_of_its_own` |
| FastAPI with its own transaction | the same, `run_with_their_app` |
| empty | `test_an_empty_folder` |
| single user with React | test_react.py |
| monorepo, `supabase/schemas`, bigint keys | test_monorepo.py |
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.release.upgrades import WORK
from infra.release.wheels import Environment
from tests.install.projects import (
    ACME,
    ADA,
    EVE,
    GLOBEX,
    LEADS,
    Client,
    Hosted,
    HostedDatabase,
    bakery,
    data_api,
)
from tests.install.second import NEXT_FILE, THIS_FILE
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack, end, launch, wait_ready

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
        assert "own_accounts" in database.push(project, "--include-seed")
        before, own = database.everything(), database.own_catalogue()

        done = environment.minutehand(project, "install", "--yes", "--tenancy", "existing")
        assert 'schemas = ["public", "minutehand"]' in done["notes"][0]
        assert (project / "supabase/config.toml").read_text().count("minutehand") == 0
        with_own_table(environment, project, "organization_id uuid references organizations")
        assert THIS_FILE in database.push(project)
        assert "up to date" in database.push(project)
        # else `supabase db diff` would find what the first worker changes in their functions
        assert database.run("select minutehand_engine.unguarded()") == []

        found = set(database.own_catalogue()) ^ set(own)
        theirs = [line for line in found if not line.startswith(("policy realtime.", "role "))]
        theirs = [line for line in theirs if "leads" not in line]
        made = [re.sub(r".*CREATE TRIGGER (.*) FOR EACH.*", r"\1", line) for line in sorted(theirs)]
        assert made == [
            "minutehand_after_delete AFTER DELETE ON public.organizations",
            "minutehand_before_delete BEFORE DELETE ON public.organizations",
        ]
        run_in_dev(environment, project)
        with data_api(database, "minutehand") as api:
            env = {**api.env, "DATABASE_URL": database.owner_url, "TENANT": ACME}
            add_leads(database, ACME, GLOBEX)
            run_with_their_app(environment, project, api.of(ADA), ACME, env)
            assert database.run("select said from public.notes") == [("yes",)]
            check_leads(api.of(ADA), database)
            check_stranger(api.of(ADA), api.of(EVE), ACME)
            assert [row["title"] for row in api.of(EVE, "public").rows("jobs")] == ["Baker"]
        tried = newer.minutehand(project, "upgrade", "--dry-run")
        done = upgrade_to_second(newer, project, database)
        again = newer.minutehand(project, "upgrade")
        # the name begins with the second in which it was asked for
        [would], [did] = (
            [name.partition("_")[2] for name in said["planned"]] for said in (tried, done)
        )
        assert would == did
        assert [len(said["written"]) for said in (tried, done, again)] == [0, 1, 0]
        assert "up to date" in database.push(project)
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
        with_own_table(environment, tmp_path, "workspace_id uuid references workspaces")
        assert THIS_FILE in database.push(tmp_path)
        database.sign_up()
        for workspace, user in ((ACME, ADA), (GLOBEX, EVE)):
            database.run("insert into public.workspaces values (%s, %s)", workspace, user)
            database.run(
                "insert into public.workspace_members values (%s, %s, 'manager')", workspace, user
            )
        with data_api(database, "public") as api:
            add_leads(database, ACME, GLOBEX)
            run_drained(environment, tmp_path, api.of(ADA), ACME, api.env)
            check_leads(api.of(ADA), database)
            check_stranger(api.of(ADA), api.of(EVE), ACME)
        upgrade_to_second(newer, tmp_path, database)

        remove(newer, tmp_path, database)
        assert database.everything() == before


def with_own_table(environment: Environment, project: Path, tenant: str) -> None:
    """A table of theirs, a processor over it by `minutehand init`, and its work filled in."""
    folder = next(path for path in (project, project.parent) if (path / "supabase").is_dir())
    later = datetime.now(UTC) + timedelta(days=2)
    name = f"supabase/migrations/{later:%Y%m%d%H%M%S}_leads.sql"
    (folder / name).write_text(LEADS.format(tenant=tenant))
    made = environment.minutehand(
        project, "init", "leads.enrich", "--no-wait", "--reads", "leads", "--writes",
        "leads.employees,leads.found",
    )  # fmt: skip
    [processor] = [folder / path for path in made["written"] if path.endswith("/leads_enrich.py")]
    text = processor.read_text()
    work = 'row={"employees": 42, "found": [lead["domain"], None]}'
    assert "row=lead" in text
    processor.write_text(text.replace("row=lead", work))


def add_leads(database: HostedDatabase, *tenants: str) -> None:
    """One row per tenant, 1 and up."""
    column = database.run(
        "select attname from pg_attribute where attrelid = 'leads'::regclass and attnum = 2"
    )[0][0]
    for tenant in tenants:
        database.run(f"insert into leads ({column}, domain) values (%s, 'a.test')", tenant)


def enqueue(client: Client, tenant: str, name: str) -> str:
    """Enqueue as the user, over both leads too; the types are known since the first tick."""
    jobs = [("jobs.hello", {"name": name}), *(("leads.enrich", {"lead_id": n}) for n in (1, 2))]
    for job_type, payload in reversed(jobs):
        answer = client.rpc("enqueue_job", workspace_id=tenant, job_type=job_type, payload=payload)
        assert answer.status_code == 200, answer.text
    return str(answer.json()["job"]["id"])


def check_leads(client: Client, database: HostedDatabase) -> None:
    """Their own row is written, and the other tenant's is not there."""
    ended = {
        row["payload"]["lead_id"]: row["status"]
        for row in client.rows("jobs", job_type="eq.leads.enrich", select="payload,status")
    }
    assert ended == {1: "completed", 2: "failed"}
    assert database.run("select employees, found from leads order by id") == [
        (42, ["a.test", None]),
        (None, None),
    ]


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
        assert [serving.stdout.readline() for _ in range(3)] == ["120\n", "409\n", "200\n"]
        job_id = enqueue(client, tenant, "Ada")
        give_up = time.monotonic() + 120
        while client.rows("jobs", status="not.in.(completed,failed)"):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        found = client.rows("jobs", id=f"eq.{job_id}")
    finally:
        out, _ = serving.communicate("\n", timeout=120)
    assert (serving.returncode, found[0]["result"]) == (0, {"greeting": "Hello, Ada!"}), out


def run_in_dev(environment: Environment, project: Path) -> None:
    """With the project's seed its first tenant runs a job."""
    with in_dev(environment, project) as stack:
        assert "ada@acme.test, with the password of your seed" in stack.output()
        with stack.connect() as connection:
            found = "select workspace_id::text, user_id::text, result from minutehand.jobs"
            assert connection.execute(found.encode()).fetchall() == [
                (ACME, ADA, {"greeting": "Hello, Ada!"})
            ]


@contextmanager
def in_dev(environment: Environment, project: Path) -> Iterator[RunningStack]:
    """A stack of the wheel's own, in which the first job has run."""
    state, cache = project / ".local", project / ".local" / "cache"
    # what the wheel would fetch from npm, by the same lock
    home = "import os; from minutehand import node; print(node._cached(os.environ, 'dev'), end='')"
    asked = environment.run(project, "-c", home, env={"XDG_CACHE_HOME": str(cache)})
    Path(asked.stdout).mkdir(parents=True)
    for name in ("node_modules", "package.json"):
        Path(asked.stdout, name).symlink_to(ROOT / name)
    launcher = launch(
        state, "--no-demo", python=environment.python, root=project,
        XDG_CACHE_HOME=str(cache), PYTHONPATH="", MINUTEHAND_PROJECT=str(project),
    )  # fmt: skip
    try:
        stack = wait_ready(state, launcher)
        command = ("enqueue", "jobs.hello", '{"name": "Ada"}', "--watch", "--json")
        environment.run(project, "-m", "minutehand.cli", *command)
        yield stack
    finally:
        end(state, launcher)


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


def upgrade_to_second(newer: Environment, project: Path, database: HostedDatabase) -> Any:
    """The next release adds one file, and says what is new."""
    done = newer.minutehand(project, "upgrade")
    assert "Greetings are counted." in done["changes"]
    assert "Everything." not in done["changes"]
    assert database.push(project).count(f"_{NEXT_FILE}.sql") == 1
    return done


def remove(environment: Environment, project: Path, database: HostedDatabase) -> None:
    """The printed SQL, run as the dashboard does, then the files it lists."""
    sql = environment.minutehand(project, "uninstall")["sql"]
    database.as_owner(sql)
    assert database.run(LEFT_RIGHTS) == []
    for line in sql.splitlines():
        if line.startswith("-- supabase/migrations/"):
            (project / line.removeprefix("-- ")).unlink()
    functions = "public.enrich_leads_lead"
    database.as_owner(f"drop function {functions}; drop table public.leads")
    database.run("delete from auth.users")
