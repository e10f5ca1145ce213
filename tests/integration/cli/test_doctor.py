"""Frequent faults of a stack, each of which `minutehand doctor` must find and fix."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from minutehand.cli.doctor import checks
from minutehand.cli.doctor.checks import TRIAL_TYPE
from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import RAW_PASSWORD, run_checks
from minutehand.terminal.connection import CommandFailed
from tests.support.command import Run
from tests.support.engine import Engine
from tests.support.http_server import http_server
from tests.support.patience import until
from tests.support.renewed import Renewed
from tests.support.stacks import RunningStack, children


def run_one_check(stack: RunningStack, check: str, **changes: str) -> CheckResult:
    """Run one check of the doctor with changed settings, and return its result."""
    [finding] = run_checks(Target({**stack.values, **changes}), [check])
    return finding


def test_the_tokens_of_schedules_are_tried_without_a_run(stack: RunningStack) -> None:
    """The doctor tests the worker's tokens with requests that start no job."""
    bodies: dict[str, bytes] = {}

    def respond(path: str, _headers: object, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        bodies[path] = body
        return 200, b"{}", {}

    with http_server(respond) as url:
        assert run_one_check(stack, "api", API_URL=url).verdict == "ok"

    # tests/unit/worker/test_routes.py shows that the API rejects this body.
    assert bodies == {"/health": b"", "/api/jobs/worker": b"", "/api/jobs/process": b"[]"}


@pytest.mark.parametrize(
    ("status", "body", "error", "found"),
    [
        (200, b"{}", b'{"code": "PT400", "message": "no"}', "removes hint and details"),
        (200, b'{"key": "PGRST003"}', b'{"code": "PT400", "hint": "no"}', "are of two projects"),
        (401, b'{"code": "PGRST303"}', b"", "the clock of this machine is wrong"),
        (401, b'{"code": "PT401", "hint": "key_revoked"}', b"", "in a minute"),
        (504, b'{"code": "PGRST003"}', b"", "all connections of the Data API are in use"),
    ],
)
def test_a_strange_data_api_is_named(
    stack: RunningStack, status: int, body: bytes, error: bytes, found: str
) -> None:
    """The doctor reports a Data API with short errors, another database or another time."""

    def respond(path: str, *_: object) -> tuple[int, bytes, dict[str, str]]:
        return (400, error, {}) if path.endswith("/report_jobs") else (status, body, {})

    with http_server(respond) as url:
        finding = run_one_check(stack, "worker-key", SUPABASE_URL=url)

    assert (finding.verdict, found in f"{finding.detail} {finding.fix}") == ("fail", True)


@pytest.mark.parametrize(
    ("check", "name", "fix"),
    [
        ("api", "API_URL", "restart `minutehand serve`  # "),
        ("supabase", "SUPABASE_URL", "supabase stop && supabase start  # "),
    ],
)
def test_an_address_without_a_response_is_called_reachable(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, check: str, name: str, fix: str
) -> None:
    """A listener that accepts connections has the right address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(Target, "call", lambda *_, **__: httpx.get(address, timeout=0.1))
        finding = run_one_check(stack, check, **{name: address})

    assert "accepts connections" in finding.detail
    assert str(finding.fix).startswith(fix)


@pytest.mark.parametrize(
    ("check", "part"), [("supabase", "gateway"), ("api", "api"), ("database", "postgres")]
)
def test_a_stack_that_runs_is_not_started(stack: RunningStack, check: str, part: str) -> None:
    """The fix for a part that hangs names the launcher, which must stop first."""
    process = children(stack)[part]
    process.suspend()
    try:
        fix = run_one_check(stack, check).fix
    finally:
        process.resume()

    assert str(fix).startswith(f"minutehand dev  # first stop process {stack.launcher.pid},")


def test_a_part_that_the_launcher_restarts_is_awaited(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "call", lambda *_, **__: httpx.get("http://127.0.0.1:9"))
    assert str(run_one_check(stack, "supabase").fix).startswith("minutehand doctor  # in a minute")


@pytest.mark.parametrize(
    "address", ["postgresql://postgres:a[b@127.0.0.1:9/postgres", "host=127.0.0.1 port=9"]
)
def test_a_local_database_is_recognized_in_each_form_of_address(address: str) -> None:
    [finding] = run_checks(Target({"DATABASE_URL": address}), ["database"])
    assert str(finding.fix).startswith("DATABASE_URL=…  # a reachable address, as in .local/env")


def test_the_function_that_uses_most_connections_is_named(renewed: Renewed) -> None:
    """The doctor names it although its name has a hyphen and other statements have no name."""
    engine = Engine(renewed, renewed.session())
    engine.run("alter role authenticator password 'p'")
    engine.run("select pg_advisory_lock(1)")
    waits = "select pg_advisory_xact_lock(1)"
    active = "pg_stat_activity where usename = 'authenticator' and state = 'active'"
    login = {"user": "authenticator", "password": "p", "options": "-c lock_timeout=0"}
    with ExitStack() as ends:
        for query in (waits, waits, f"""{waits}, '"my-app"."send-it"'"""):
            connection = ends.enter_context(renewed.connect(**login))
            engine.blocked(connection.execute, query)
        ends.callback(engine.run, "select pg_advisory_unlock(1)")
        until(lambda: engine.count(active) == 3)
        with http_server(lambda *_: (504, b'{"code": "PGRST003"}', {})) as url:
            values = {"SUPABASE_URL": url, "DATABASE_URL": renewed.url}
            with pytest.raises(CommandFailed, match=r'1 by requests of "my-app"\."send-it"'):
                Target(values).call("GET", "SUPABASE_URL", "/")


@pytest.mark.parametrize(
    ("address", "is_raw"),
    [
        ("postgresql://postgres:p#ss@db.test/postgres", True),
        ("postgresql://postgres:p@ss@db.test/postgres", True),
        ("postgresql://postgres:p%w@db.test/postgres", True),
        ("postgresql://postgres:p%25w@db.test/postgres", False),
        ("postgresql://db.test/postgres?application_name=a@b", False),
        ("postgresql://db.test:5432/postgres?application_name=a@b", False),
    ],
)
def test_only_a_raw_password_is_called_unencoded(address: str, is_raw: bool) -> None:
    """An `@` in the query of an address without a user does not belong to a password."""
    assert bool(re.match(RAW_PASSWORD, address)) is is_raw


def test_addresses_of_two_projects_are_named(stack: RunningStack) -> None:
    """The doctor compares the projects in SUPABASE_URL and DATABASE_URL."""
    url, host = "https://aaaaaaaaaaaaaaaaaaaa.supabase.co", "db.bbbbbbbbbbbbbbbbbbbb.supabase.co"
    finding = run_one_check(stack, "settings", SUPABASE_URL=url, DATABASE_URL=host)
    assert "https://bbbbbbbbbbbbbbbbbbbb.supabase.co" in str(finding.fix)


def test_the_settings_of_a_member_are_no_failure(stack: RunningStack) -> None:
    """Without a secret of the service, the doctor reports no missing token or key."""
    names = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "API_URL", "MINUTEHAND_SCHEMA", "STAGE")
    results = run_checks(Target({name: stack.values.get(name, "") for name in names}))
    verdicts = {result.check: result.verdict for result in results}
    assert {verdicts.pop(name) for name in ("processors", "supabase", "api")} == {"ok"}
    assert "fail" not in verdicts.values()


def test_exchanged_keys_are_both_named(stack: RunningStack) -> None:
    """One paste repairs both keys."""
    secret, public = stack.supabase_secret_key, stack.supabase_publishable_key
    keys = {"SUPABASE_PUBLISHABLE_KEY": secret, "SUPABASE_SECRET_KEY": public}
    fix = str(run_one_check(stack, "settings", **keys).fix)
    assert [line.strip().partition("=")[0] for line in fix.splitlines()] == [*keys]


#: Each line: a package, the faulty module of its processors, and a part of the fix.
MODULES = """\
lacking | import nonexist_lib | install the package that provides `nonexist_lib`
misspelt | from minutehand import processer | python -c 'import misspelt.processors.bad'
"""


@pytest.mark.parametrize("module", MODULES.splitlines())
def test_processors_that_cannot_be_imported_are_a_finding(
    stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """The doctor reports a module that cannot be imported as text and JSON, and exits with 1."""
    package, code, fix = module.split(" | ")
    folder = tmp_path / package / "processors"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "bad.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(env={**stack.values, "MINUTEHAND_APPS": package})

    command = ("doctor", "--only", "processors")
    [finding] = run.json(*command, code=1)

    assert "fail  processors" in run(*command, code=1).stdout
    assert finding["detail"].startswith(f"{package}.processors.bad cannot be imported: ")
    assert fix in finding["fix"]


#: Each entry: a check, its verdict, a part of the detail and of the fix, the statement that breaks
#: the database, and the repair.
BROKEN = [
    (
        *("migrations", "fail", "not applied", "migration"),
        "update supabase_migrations.schema_migrations set version = 'planted' || version"
        " where version = (select min(version) from supabase_migrations.schema_migrations)",
        "update supabase_migrations.schema_migrations"
        " set version = replace(version, 'planted', '')",
    ),
    (
        *("queue", "warn", "it is referenced", "retried"),
        "update queue.tasks set failures = 9, failure = 'it is referenced', retry_at = 'infinity'"
        " where name = 'retention'",
        "update queue.tasks set failures = 0, retry_at = null where name = 'retention'",
    ),
    (
        *("event-triggers", "fail", "not on Mondays", "alter event trigger mondays disable"),
        "create function public.refuse() returns event_trigger language plpgsql"
        " as 'begin raise ''not on Mondays''; end';"
        " create event trigger mondays on ddl_command_start execute function public.refuse()",
        "drop event trigger mondays; drop function public.refuse",
    ),
    (
        *("enqueue", "fail", "permission denied", "function gen_random_uuid() to public"),
        "revoke execute on function gen_random_uuid() from public",
        "grant execute on function gen_random_uuid() to public",
    ),
    (
        *("enqueue", "fail", "permission denied", "enqueue_job(uuid,text,jsonb,jsonb) to auth"),
        "revoke execute on function public.enqueue_job from authenticated",
        "grant execute on function public.enqueue_job to authenticated",
    ),
    (
        *("enqueue", "warn", "minutehand.doctor took", "disable trigger slow"),
        "create function public.slow() returns trigger language plpgsql"
        " as 'begin perform pg_sleep(0.7); return new; end';"
        " create trigger slow before insert or update on jobs for each row execute function slow()",
        "drop function public.slow() cascade",
    ),
    (
        *("enqueue", "fail", "cannot be completed: no result", "disable trigger strict"),
        "create function public.strict() returns trigger language plpgsql"
        " as 'begin if new.status = ''completed'' then raise ''no result''; end if; return new;"
        " end'; create trigger strict before update on jobs for each row execute function strict()",
        "drop function public.strict() cascade",
    ),
    (
        *("engine", "fail", "renamed", "update queue.refusals set retry_at = now()"),
        "alter function queue.promote rename to planted",
        "alter function queue.planted rename to promote",
    ),
    (
        *("engine", "fail", "read_only", "begin; set transaction read write; alter role"),
        "alter role job_worker set default_transaction_read_only = on",
        "alter role job_worker reset default_transaction_read_only",
    ),
    (
        *("engine", "fail", "1 rows break", "select * from public.workspace_members where"),
        "alter table workspace_members drop constraint workspace_members_workspace_id_fkey;"
        " insert into workspace_members (workspace_id, user_id)"
        " select gen_random_uuid(), user_id from workspace_members limit 1",
        "delete from workspace_members where workspace_id not in"
        " (select id from workspaces); alter table workspace_members"
        " add constraint workspace_members_workspace_id_fkey foreign key (workspace_id)"
        " references workspaces on delete cascade",
    ),
]


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault[2])
def test_a_broken_database_is_found(stack: RunningStack, fault: tuple[str, ...]) -> None:
    """The doctor reports a database that a person, a tool or a full disk has broken."""
    check, verdict, detail, fix, breaks, repair = fault
    stack.run(breaks)
    try:
        finding = run_one_check(stack, check)
    finally:
        stack.run(repair)

    assert finding.verdict == verdict, finding
    assert detail in finding.detail, finding
    assert fix in str(finding.fix), finding


def test_a_cause_that_was_not_determined_in_time_is_sought_again(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may lock the table so often that no trigger can be disabled for a trial."""
    monkeypatch.setattr(checks, "SLOW_SECONDS", 0)
    with stack.connect() as worker, worker.transaction():
        worker.execute("lock table public.jobs in row exclusive mode")
        finding = run_one_check(stack, "enqueue")
    assert finding.verdict == "warn"
    assert "of the type minutehand.doctor took" in finding.detail
    assert str(finding.fix).startswith("not determined in time: stop the workers")
    assert "disable trigger enrichment_forget_answers" in str(finding.fix)


def test_a_missing_function_needs_no_migration(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check of the engine's objects finds it, in a checkout only with a record."""
    stack.run("alter function public.explain_queue rename to planted")
    try:
        with_record = run_one_check(stack, "queue").fix
        monkeypatch.setattr(checks, "read_record", lambda *_: None)
        without = run_one_check(stack, "queue").fix
    finally:
        stack.run("alter function public.planted rename to explain_queue")

    assert with_record == "minutehand doctor"
    assert str(without).startswith("make dist  #")
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch("make -C '?/.+ dist", checks.record_command())
    monkeypatch.setattr(checks, "checkout", lambda: None)
    assert checks.record_command().startswith("pip install")


def test_an_open_topic_is_a_finding_and_realtime_is_still_checked(stack: RunningStack) -> None:
    """The doctor reports missing row-level security of Realtime's messages.

    It still checks Realtime.
    """
    toggle = "alter table realtime.messages {} row level security"
    stack.run(toggle.format("disable"))
    try:
        found = {each.check: each for each in run_checks(Target(stack.values))}
    finally:
        stack.run(toggle.format("enable"))

    assert "row level security of realtime.messages" in found["extensions"].detail
    assert "as its owner" in str(found["extensions"].fix)
    assert found["realtime"].verdict == "ok"


def test_a_locked_table_is_named_with_its_locker(stack: RunningStack) -> None:
    """The doctor names the session that locks a table. No other check waits for that lock."""
    with stack.connect() as locker, locker.transaction():
        pid = locker.info.backend_pid
        locker.execute("lock table jobs in access exclusive mode")
        met = run_one_check(stack, "engine")  # it waits for the new lock
        findings = list(run_checks(Target(stack.values)))

    [locks] = [finding for finding in findings if finding.verdict == "fail"]
    assert (met.check, met.fix) == ("locks", locks.fix)
    assert locks.detail.startswith(f"process {pid} locks jobs (AccessExclusiveLock), in")
    assert f"select pg_terminate_backend({pid})" in str(locks.fix)
    assert {"queue", "engine", "supabase"} <= {f.check for f in findings if f.detail == "see locks"}


def test_the_session_for_which_a_migration_waits_is_named(stack: RunningStack) -> None:
    """Jobs wait for a lock that waits for a reader, so the doctor names the reader's session."""
    lock = "begin; lock table jobs in access exclusive mode; rollback"
    with ThreadPoolExecutor() as pool, stack.connect() as reader, stack.connect() as migration:
        pid = reader.info.backend_pid
        with reader.transaction():
            reader.execute("select from jobs limit 0")
            waiting = pool.submit(migration.execute, lock)
            until(lambda: run_one_check(stack, "locks").verdict == "fail", every=1)
            fix = run_one_check(stack, "locks").fix
        waiting.result()

    assert f"select pg_terminate_backend({pid})" in str(fix)


def test_the_session_for_which_a_job_waits_is_named_once(stack: RunningStack) -> None:
    """A forgotten transaction blocks a job at a table of the project."""
    stack.run("create table public.invoices ()")
    with ThreadPoolExecutor() as pool, stack.connect() as forgotten, stack.connect() as job:
        pid = forgotten.info.backend_pid
        with forgotten.transaction():
            forgotten.execute("lock table public.invoices in access exclusive mode")
            waiting = pool.submit(job.execute, "select from public.invoices")
            until(lambda: run_one_check(stack, "locks").verdict == "warn", every=1)
            found = {each.check: each for each in run_checks(Target(stack.values))}
        waiting.result()
    stack.run("drop table public.invoices")

    assert f"(pid {pid}) is idle in transaction" in found["locks"].detail
    assert str(found["locks"].fix).startswith(f"select pg_terminate_backend({pid})")
    assert str(pid) not in found["queue"].detail
    assert found["queue"].detail != "every waiting job has a normal reason"
    assert found["schedule"].verdict == "ok"


def test_connections_that_are_used_up_are_no_wrong_address(stack: RunningStack) -> None:
    """The fix counts the sessions of each program. The Data API may name the program."""
    stack.run("create role planted login connection limit 0 password 'planted'")
    body = "select pg_get_functiondef('queue.findings_of_connections'::regproc)"
    [(source,)] = stack.run(body)
    try:
        url = re.sub("//.+@", "//planted:planted@", stack.values["DATABASE_URL"])
        finding = run_one_check(stack, "database", DATABASE_URL=url)
        stack.run(source.replace("p_share *", "0 *"))
        named = run_one_check(stack, "database", DATABASE_URL=url)
    finally:
        stack.run(source)
        stack.run("drop role planted")
    assert re.search(r"reserved\. The application .+ has the most: \d+\.", named.detail)
    assert "a smaller pool" in str(named.fix)
    assert str(finding.fix).startswith("select application_name, usename, client_addr, count(*)")


@pytest.mark.weekly(only=True)
def test_rows_that_an_idle_transaction_locks_are_named(stack: RunningStack) -> None:
    """The doctor warns once of a transaction that does nothing and keeps locks of rows.

    Another check, which waits for one of these rows, adds no second warning.
    """
    with stack.connect() as locker, locker.transaction():
        locker.execute("select from jobs for update")
        locker.execute(TRIAL_TYPE)
        until(lambda: run_one_check(stack, "locks").verdict == "warn", every=1)
        findings = list(run_checks(Target(stack.values)))

    assert [finding.check for finding in findings].count("locks") == 1
    assert "see locks" in [finding.detail for finding in findings]


#: A query of the rows that the temporary job of `doctor --stage` may leave.
LEFT = (
    "select count(*) from jobs where job_type = 'minutehand.doctor' union all"
    " select count(*) from queue.job_types where job_type = 'minutehand.doctor'"
)
PAUSE = "insert into queue.pauses (kind, name) values ('queue', 'default')"


def run_proof(stack: RunningStack) -> CheckResult:
    """Run the temporary job, check that nothing is left of it, and return the result."""
    finding = run_one_check(stack, "proof")
    assert stack.run(LEFT) == [(0,), (0,)]
    return finding


def test_a_sound_project_is_proved_step_by_step(stack: RunningStack) -> None:
    """In a healthy stack, the doctor reports the duration of each step of the temporary job."""
    finding = run_proof(stack)

    assert finding.verdict == "ok", finding
    for step in ("enqueued", "joined", "leased", "settled", "message on job", "message on session"):
        assert f"{step} " in finding.detail


def test_the_step_that_fails_is_named_with_its_fix(stack: RunningStack) -> None:
    """If the queue is paused, the doctor reports that the temporary job was not leased."""
    stack.run(PAUSE)
    try:
        finding = run_proof(stack)
    finally:
        stack.run("delete from queue.pauses where name = 'default'")

    assert finding.verdict == "fail"
    assert finding.detail.startswith("not leased: ")
    assert "explain" in str(finding.fix)
