"""Misconfigurations planted one by one: doctor must name each, and its fix."""

# ruff: noqa: E501 - one planted fault per line reads as the table it is
from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest

from minutehand.cli.doctor import machine, service
from minutehand.cli.doctor.command import CHECKS, attach, examine, run
from minutehand.cli.doctor.findings import Finding, Target, Verdict
from minutehand.terminal.output import Output
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.extensions import PG_NET, VAULT, create, drop
from tests.support.stacks import RunningStack


@contextmanager
def looking(stack: RunningStack, **changes: str | None) -> Iterator[Target]:
    """The stack with some values planted; None takes one away."""
    values = {**stack.values, **{k: v for k, v in changes.items() if v is not None}}
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
    target = Target(values)
    try:
        yield target
    finally:
        target.close()


def found(stack: RunningStack, check: str, **changes: str | None) -> Finding:
    """What one check says with those values planted."""
    [chosen] = [candidate for candidate in CHECKS if candidate.name == check]
    with looking(stack, **changes) as target:
        return run(chosen, target)


def test_a_healthy_stack_has_nothing_wrong(stack: RunningStack) -> None:
    """A doctor that cries wolf is not asked twice."""
    give_up = time.monotonic() + 60
    while True:
        with looking(stack) as target:
            findings = list(examine(target))
        wrong = [
            f
            for f in findings
            # the stack's other tests may have held messages back
            if f.verdict in {Verdict.FAIL, Verdict.WARN} and f.check not in {"package", "messages"}
        ]
        if wrong == [] or time.monotonic() > give_up:
            break  # on a busy machine a tick may be late, or an answer

    assert wrong == []
    assert len(findings) > 30


PROD: dict[str, str | None] = {"STAGE": "prod"}
SERVICE_ROLE = jwt.encode({"role": "service_role"}, "x" * 32, "HS256")
ANON = jwt.encode({"role": "anon"}, "x" * 32, "HS256")
OUR_KEY = jwt.encode({"role": "job_worker"}, "x" * 32, "HS256", headers={"kid": "imported"})
OUR_USER = jwt.encode(
    {"sub": "1", "iat": 1, "exp": 2}, "x" * 32, "HS256", headers={"kid": "imported"}
)
NOW = int(time.time())
LASTING = jwt.encode({"sub": "1", "iat": NOW, "exp": NOW + 3601}, "x" * 32, "HS256")
OTHER_PROJECT = {"SUPABASE_URL": "https://abcdefghijklmnopqrst.supabase.co"}
EXPIRED = jwt.encode({"role": "job_worker", "exp": 1}, "x" * 32, "HS256")

#: check, what is planted, verdict, a word of the detail, a word of the fix
PLANTED: list[tuple[str, dict[str, str | None], Verdict, str, str]] = [
    ("settings", {"SUPABASE_PUBLISHABLE_KEY": None}, Verdict.FAIL, "is not set", "sb_publishable"),
    ("settings", {"WORKER_SECRET_TOKEN": "a,b,c"}, Verdict.FAIL, "3 tokens", "new-token,old-token"),
    ("settings", {"SUPABASE_JWKS": "{"}, Verdict.FAIL, "is not JSON", "keys"),
    ("publishable-key", {"SUPABASE_PUBLISHABLE_KEY": SERVICE_ROLE}, Verdict.FAIL, "secret key", "sb_publishable_"),
    ("publishable-key", {"SUPABASE_PUBLISHABLE_KEY": ANON}, Verdict.WARN, "legacy", "sb_publishable_"),
    ("migrations", {"DATABASE_URL": "host=db.abcd.supabase.co port=6543 user=postgres dbname=postgres"}, Verdict.FAIL, "shared with other clients", "db.abcd.supabase.co:5432"),
    ("tokens", PROD, Verdict.FAIL, "is public", "token secret"),
    ("tokens", {**PROD, "WORKER_SECRET_TOKEN": "w" * 31, "BACKGROUND_JOB_TOKEN": "y" * 40}, Verdict.FAIL, "shorter than 32", "token secret"),
    ("tokens", {**PROD, "WORKER_SECRET_TOKEN": f"{'w' * 40}, short", "BACKGROUND_JOB_TOKEN": "y" * 40}, Verdict.FAIL, "shorter than 32", "token secret"),
    ("tokens-differ", {"WORKER_SECRET_TOKEN": "a, b", "BACKGROUND_JOB_TOKEN": "b"}, Verdict.WARN, "share a value", "BACKGROUND_JOB_TOKEN"),
    ("tokens-differ", {"BACKGROUND_JOB_TOKEN": "dev-secret-token"}, Verdict.WARN, "share a value", "BACKGROUND_JOB_TOKEN"),
    ("cors", {**PROD, "CORS_ORIGINS": "http://a.example"}, Verdict.FAIL, "plain http", "https"),
    ("anonymous", PROD, Verdict.WARN, "ALLOW_ANONYMOUS", "false"),
    ("mock-vendors", PROD, Verdict.FAIL, "invented data", "USE_MOCK_APOLLO"),
    ("sealing", PROD, Verdict.FAIL, "key file", "KMS_KEY_ID"),
    ("sealing", {"SEALING_KEY_FILE": None}, Verdict.FAIL, "cannot be stored", "KMS_KEY_ID"),
    ("jwt-algorithm", {"SUPABASE_JWT_SECRET": None}, Verdict.FAIL, "every user is refused", "ES256"),
    ("jwt-algorithm", PROD, Verdict.WARN, "HS256", "ES256"),
    ("sign-in", {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_wrong"}, Verdict.FAIL, "SUPABASE_PUBLISHABLE_KEY is refused", "API keys"),
    ("sign-in", {"SUPABASE_JWT_SECRET": "x" * 40}, Verdict.FAIL, "do not verify", "JWT secret"),
    ("sign-in", {"SUPABASE_WORKER_KEY": OUR_KEY, "MINUTEHAND_TOKEN": OUR_USER}, Verdict.FAIL, "signed by the worker's own key", "previously used"),
    ("sign-in", {"SUPABASE_JWT_SECRET": "x" * 32, "MINUTEHAND_TOKEN": LASTING}, Verdict.WARN, "live 3601 s", "3600 s or less"),
    ("sign-up", PROD, Verdict.FAIL, "anyone can sign up with an invited address", "Confirm email"),
    ("one-project", {**OTHER_PROJECT, "DATABASE_URL": "postgresql://postgres@db.zyxwvutsrqponmlkjihg.supabase.co:5432/postgres"}, Verdict.FAIL, "to project zyxwvutsrqponmlkjihg", "from one project"),
    ("one-project", {**OTHER_PROJECT, "DATABASE_URL": "postgresql://postgres.zyxwvutsrqponmlkjihg@aws-0-eu-west-1.pooler.supabase.com:5432/postgres"}, Verdict.FAIL, "SUPABASE_URL of abcdefghijklmnopqrst", "from one project"),
    ("worker-key", {"SUPABASE_JWT_SECRET": None}, Verdict.WARN, "more rights", "token worker"),
    ("worker-key", {"SUPABASE_JWT_SECRET": None, "SUPABASE_SECRET_KEY": None}, Verdict.FAIL, "SUPABASE_WORKER_KEY", "token worker"),
    ("api-sign-in", {"MINUTEHAND_TOKEN": "not.a.token"}, Verdict.FAIL, "refuses a fresh token", "JWT secret"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "planted", "verdict", "detail", "fix"),
    PLANTED,
    ids=[
        f"{check}-{'-'.join(planted)}-{detail}".replace(" ", "_")
        for check, planted, _, detail, _ in PLANTED
    ],
)
def test_a_wrong_value_is_found(
    stack: RunningStack,
    check: str,
    planted: dict[str, str | None],
    verdict: Verdict,
    detail: str,
    fix: str,
) -> None:
    """In the environment, where most mistakes are made."""
    finding = found(stack, check, **planted)

    assert finding.verdict is verdict, finding
    assert detail in finding.detail, finding
    assert finding.fix is not None
    assert fix in finding.fix, finding
    assert "\n" not in finding.fix


class Asleep(BaseHTTPRequestHandler):
    """Supabase's gateway before a paused project."""

    def do_GET(self) -> None:
        self.send_response(540)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def asleep() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Asleep) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


#: check, the path it asks, what is answered, verdict, a word of the detail
ANSWERS: list[tuple[str, str, int, Any, Verdict, str]] = [
    ("supabase", "/rest/v1/jobs", 200, [], Verdict.OK, "answers"),
    ("supabase", "/rest/v1/jobs", 406, {"code": "PGRST106"}, Verdict.FAIL, "does not expose the schema public"),
    ("supabase", "/rest/v1/jobs", 404, {"code": "PGRST205"}, Verdict.FAIL, "has no table jobs"),
    ("supabase", "/rest/v1/jobs", 503, {}, Verdict.FAIL, "answers 503"),
    ("exposed-schemas", "/rest/v1/job_types", 200, [], Verdict.FAIL, "the schema queue is exposed"),
    ("exposed-schemas", "/rest/v1/job_types", 406, {}, Verdict.OK, "queue is not exposed"),
    ("clock-skew", "/auth/v1/health", 200, {}, Verdict.OK, " s"),
    ("clock-skew", "/auth/v1/health", 200, -60, Verdict.FAIL, "s ahead"),
    ("clock-skew", "/auth/v1/health", 200, 60, Verdict.FAIL, "s behind"),
    ("jwt-algorithm", "/auth/v1/.well-known/jwks.json", 200, {"keys": [{"alg": "ES256"}]}, Verdict.OK, "ES256 published"),
    ("jwt-algorithm", "/auth/v1/.well-known/jwks.json", 200, {"keys": [{"alg": "HS256"}]}, Verdict.WARN, "HS256"),
    ("jwt-secret", "/rest/v1/jobs", 401, {"code": "PGRST301"}, Verdict.FAIL, "refuses what SUPABASE_JWT_SECRET signs"),
    ("sign-up", "/auth/v1/settings", 200, {"external": {"email": True}}, Verdict.OK, "addresses are confirmed"),
    ("sign-up", "/auth/v1/settings", 200, {"disable_signup": True}, Verdict.OK, "closed"),
    ("sign-up", "/auth/v1/settings", 200, {"external": {"email": True}, "mailer_autoconfirm": True}, Verdict.FAIL, "not confirmed"),
    ("sign-up", "/auth/v1/settings", 200, {"external": {"anonymous_users": True}}, Verdict.WARN, "anonymous sign-ins are on"),
    ("api", "/health", 200, {"version": "0.0.1"}, Verdict.WARN, "it runs 0.0.1"),
    ("api", "/health", 500, {}, Verdict.FAIL, "answers 500"),
    ("worker-token", "/api/jobs/worker", 401, {}, Verdict.FAIL, "refuses WORKER_SECRET_TOKEN"),
    ("worker-token", "/api/jobs/worker", 503, {}, Verdict.FAIL, "the worker answers 503"),
    ("ready", "/api/health/ready", 503, {"checks": {"a": {"verdict": "warn", "detail": "slow"}, "b": {"verdict": "fail", "detail": "gone"}}}, Verdict.FAIL, "b: gone"),
    ("ready", "/api/health/ready", 200, {"checks": {"a": {"verdict": "warn", "detail": "slow"}}}, Verdict.WARN, "a: slow"),
]  # fmt: skip


class Gateway(BaseHTTPRequestHandler):
    """Supabase's and the API's address, with one answer; a number is by how much its clock is off."""

    path_of_answer, status, said = "", 200, None

    def do_GET(self) -> None:
        is_asked = self.path.partition("?")[0] == self.path_of_answer
        off = self.said if isinstance(self.said, int) else 0
        body = json.dumps(self.said).encode()
        self.send_response_only(self.status if is_asked else 501)
        self.send_header("date", self.date_time_string(time.time() + off))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("check", "path", "status", "said", "verdict", "detail"),
    ANSWERS,
    ids=[f"{row[0]}-{row[2]}-{row[4]}-{row[5]}".replace(" ", "_") for row in ANSWERS],
)
def test_what_a_hosted_project_or_the_api_answers_is_understood(
    stack: RunningStack,
    check: str,
    path: str,
    status: int,
    said: Any,
    verdict: Verdict,
    detail: str,
) -> None:
    """As the dashboard's switches make it, which the local stack does not have."""
    answer = {"path_of_answer": path, "status": status, "said": said}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Said", (Gateway,), answer)) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        hosted = {**PROD, "DATABASE_URL": None, "ALLOW_ANONYMOUS": None}
        finding = found(stack, check, SUPABASE_URL=address, API_URL=address, **hosted)
        server.shutdown()

    assert finding.verdict is verdict, finding
    assert detail in finding.detail, finding
    assert (finding.fix is None) is (verdict is Verdict.OK)


@pytest.mark.parametrize(("now", "off"), [(1000.5, "0.0 s"), (1000.99, "0.5 s"), (1000, "0.5 s")])
def test_a_clock_in_a_header_is_read_at_the_middle_of_its_second(
    monkeypatch: pytest.MonkeyPatch, now: float, off: str
) -> None:
    """Else one in step would be shown up to a second behind."""
    answer = httpx.Response(200, headers={"date": "Thu, 01 Jan 1970 00:16:40 GMT"})
    target: Any = SimpleNamespace(values={}, get=lambda *_: answer)
    monkeypatch.setattr(service, "time", SimpleNamespace(time=lambda: now))

    assert service.clock_skew(target).detail == off


REF = "abcdefghijklmnopqrst"
OTHERS_KEY = jwt.encode({"role": "job_worker"}, "y" * 32, "HS256")
#: The one check that fails, what is planted, a word of the detail, a word of the fix
FAULTS: list[tuple[str, dict[str, str | None], str, str]] = [
    ("postgres", {"DATABASE_URL": "{wrong_password}"}, "password in DATABASE_URL is wrong", "percent-encoded"),
    ("postgres", {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x"}, "does not answer", "correct DATABASE_URL"),
    ("postgres", {"DATABASE_URL": f"postgresql://postgres@db.{REF}.supabase.co:5432/postgres"}, "paused", "restore"),
    ("postgres", {"DATABASE_URL": "postgresql://postgres.abcd:x@aws-0-eu-west-1.pooler.supabase.com:6543/postgres"}, "transaction mode", "aws-0-eu-west-1.pooler.supabase.com:5432"),
    ("settings", {"MINUTEHAND_SCHEMA": "minutehan"}, "MINUTEHAND_SCHEMA is minutehan", "MINUTEHAND_SCHEMA=public"),
    ("settings", {"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of", "LOG_LEVEL=INFO"),
    ("settings", {"SUPABASE_URL": "supabase.co"}, "SUPABASE_URL", "https://"),
    ("settings", {"SUPABASE_URL": f"https://supabase.com/dashboard/project/{REF}/settings"}, "dashboard's address", f"SUPABASE_URL=https://{REF}.supabase.co"),
    ("settings", {"API_URL": f"https://supabase.com/dashboard/project/{REF}"}, "API_URL is the dashboard's", "minutehand deploy"),
    ("settings", {"API_URL": f"https://{REF}.supabase.co"}, "API_URL is Supabase's address", "minutehand deploy"),
    ("apps", {"MINUTEHAND_APPS": "jobz"}, "'jobz', which is not a package", "MINUTEHAND_APPS=minutehand_apps"),
    ("cors", {"CORS_ORIGINS": "https://a.example/, https://b.example"}, "no slash at its end", "CORS_ORIGINS=https://a.example,https://b.example"),
    ("cors", {"CORS_ORIGINS": "*"}, "every page", "https://"),
    ("publishable-key", {"SUPABASE_PUBLISHABLE_KEY": "sb_secret_abc"}, "browsers would get it", "sb_publishable_"),
    ("supabase", {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_wrong"}, "refused", "API keys"),
    ("supabase", {"SUPABASE_URL": "http://127.0.0.1:9"}, "does not answer", "address"),
    ("supabase", {"SUPABASE_URL": f"https://{REF}.supabase.co"}, "paused, or its ref is misspelt", f"dashboard/project/{REF}"),
    ("supabase", {"SUPABASE_URL": "{asleep}"}, "paused", "restore it"),
    ("jwt-secret", {"SUPABASE_JWT_SECRET": "x" * 40}, "SUPABASE_JWT_SECRET", "copy the JWT secret"),
    ("worker-key", {"SUPABASE_WORKER_KEY": EXPIRED}, "refuses the worker", "token worker"),
    ("worker-key", {"SUPABASE_WORKER_KEY": OTHERS_KEY}, "refuses the worker", "token worker"),
    ("tokens", {"WORKER_SECRET_TOKEN": None}, "is not set", "token secret"),
    ("worker-token", {"WORKER_SECRET_TOKEN": "another"}, "refuses", "secrets-only"),
    ("sign-in", {"DEMO_PASSWORD": "wrong"}, "could not sign in", "PASSWORD"),
    ("api", {"API_URL": "http://127.0.0.1:9"}, "does not answer", "minutehand dev"),
]  # fmt: skip
MACHINE = {check.name for check in machine.CHECKS}


@pytest.mark.parametrize(("check", "planted", "detail", "fix"), FAULTS)
def test_one_fault_is_one_finding_with_its_own_fix(
    stack: RunningStack,
    asleep: str,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    planted: dict[str, str | None],
    detail: str,
    fix: str,
) -> None:
    """What follows from it is not reported: twenty lines about one password hide the password."""
    resolve = socket.getaddrinfo

    def no_such_project(host: Any, *more: Any, **named: Any) -> Any:
        if str(host).endswith(".supabase.co"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", no_such_project)
    url = stack.values["DATABASE_URL"]
    put = {"{wrong_password}": re.sub(r":[^:@/]+@", ":wrong@", url), "{asleep}": asleep}
    changes = {name: put.get(value or "", value) for name, value in planted.items()}
    with looking(stack, **changes) as target:
        findings = list(examine(target, {check.name for check in CHECKS} - MACHINE))

    failed = [finding for finding in findings if finding.verdict is Verdict.FAIL]
    assert [finding.check for finding in failed] == [check], failed
    assert detail in failed[0].detail
    assert fix in str(failed[0].fix)


#: check, SQL that breaks it, SQL that mends it, verdict, a word of the detail, a word of the fix
BROKEN: list[tuple[str, str, str, Verdict, str, str]] = [
    ("grants",
     "revoke execute on function public.lease_jobs from job_worker",
     "grant execute on function public.lease_jobs to job_worker",
     Verdict.FAIL, "job_worker may not execute lease_jobs", "grant execute"),
    ("worker-functions",
     "grant execute on function public.settle_jobs to anon",
     "revoke execute on function public.settle_jobs from anon",
     Verdict.FAIL, "anon may execute settle_jobs", "revoke execute"),
    ("worker-functions",
     "grant execute on function public.lease_jobs to authenticated",
     "revoke execute on function public.lease_jobs from authenticated",
     Verdict.FAIL, "authenticated may execute lease_jobs", "revoke execute"),
    ("row-level-security",
     "alter table public.job_logs disable row level security",
     "alter table public.job_logs enable row level security",
     Verdict.FAIL, "job_logs", "enable row level security"),
    ("row-level-security",
     'create table public."TeamMember" ()',
     'drop table public."TeamMember"',
     Verdict.FAIL, "TeamMember", 'alter table public."TeamMember" enable row level security'),
    ("row-level-security",
     "create table public.by_month (at date) partition by range (at)",
     "drop table public.by_month",
     Verdict.FAIL, "by_month", "alter table public.by_month enable row level security"),
    ("engine-tables",
     "grant update on queue.leases to job_worker",
     "revoke update on queue.leases from job_worker",
     Verdict.FAIL, "job_worker has rights on queue.leases", "revoke all"),
    ("engine-tables",
     "grant select on queue.leases to authenticated",
     "revoke select on queue.leases from authenticated",
     Verdict.FAIL, "queue.leases", "revoke all"),
    ("extensions",
     'drop policy "minutehand: members follow their jobs" on realtime.messages',
     "select public.attach_extensions()",
     Verdict.FAIL, "realtime is there and not attached", "doctor --fix"),
    ("database-invokes",
     """insert into queue.settings (name, value) values ('worker_url', '"https://jobs.example.com/api/jobs/worker"')""",
     "delete from queue.settings where name = 'worker_url'",
     Verdict.FAIL, "pg_net or the Vault is missing", "Extensions"),
    ("publication",
     "alter publication supabase_realtime drop table public.job_logs",
     "alter publication supabase_realtime add table public.job_logs",
     Verdict.WARN, "job_logs", "alter publication"),
    ("migrations",
     "update supabase_migrations.schema_migrations set version = '1' || substr(version, 2) where version = (select max(version) from supabase_migrations.schema_migrations)",
     "update supabase_migrations.schema_migrations set version = '2' || substr(version, 2) where version like '1%'",
     Verdict.FAIL, "not applied", "minutehand dev"),
    ("migrations",
     "insert into supabase_migrations.schema_migrations (version) values ('29991231000000')",
     "delete from supabase_migrations.schema_migrations where version = '29991231000000'",
     Verdict.FAIL, "ahead of this checkout: 29991231000000", "git pull"),
    ("statement-timeout",
     "alter role authenticated set statement_timeout = 0",
     "alter role authenticated set statement_timeout = '8s'",
     Verdict.WARN, "no statement_timeout", "alter role"),
    ("pauses",
     "update queue.job_types set paused_at = now(), pause_reason = 'planted' where job_type = 'enrich_contact'",
     "update queue.job_types set paused_at = null, pause_reason = null where job_type = 'enrich_contact'",
     Verdict.WARN, "planted", "minutehand resume type enrich_contact"),
    ("schedules",
     "insert into queue.schedules (workspace_id, name, cron, timezone, job_type, payload, options, missed, next_at, problem) "
     "values ('11111111-1111-4111-8111-111111111111', 'planted', '0 3 * * *', 'UTC', 'nobody', '{}', '{}', 'once', now() + interval '1 day', 'unknown type')",
     "delete from queue.schedules where name = 'planted'",
     Verdict.WARN, "planted enqueues nothing: unknown type", "schedules set planted"),
    ("schedules",
     "insert into queue.schedules (workspace_id, name, cron, timezone, job_type, payload, options, missed, next_at) "
     "values ('11111111-1111-4111-8111-111111111111', 'planted', '0 3 30 2 *', 'UTC', 'nobody', '{}', '{}', 'once', null)",
     "delete from queue.schedules where name = 'planted'",
     Verdict.FAIL, "planted never comes due", "cron expression"),
    ("job-types",
     "insert into queue.job_types (job_type, registered_at) values ('planted', now() - interval '1 day')",
     "delete from queue.job_types where job_type = 'planted'",
     Verdict.WARN, "no running worker serves planted", "deploy the processor again"),
    ("webhooks",
     "insert into queue.webhooks (workspace_id, url, sealed_secret, enabled, disabled_reason) "
     "values ('11111111-1111-4111-8111-111111111111', 'https://hook.example', 'mh1.a2V5.d3JhcHBlZA==.Ym9keQ==', false, 'planted')",
     "delete from queue.webhooks where url = 'https://hook.example'",
     Verdict.WARN, "was switched off: planted", "enable it again"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "breaking", "mending", "verdict", "detail", "fix"),
    BROKEN,
    ids=[row[0] for row in BROKEN],
)
def test_a_broken_database_is_found(
    stack: RunningStack,
    check: str,
    breaking: str,
    mending: str,
    verdict: Verdict,
    detail: str,
    fix: str,
) -> None:
    """Each fault is planted in the real database and mended again."""
    with stack.connect() as connection:
        connection.execute(breaking.encode())
        try:
            finding = found(stack, check)
        finally:
            connection.execute(mending.encode())

    assert finding.verdict is verdict, finding
    assert detail in finding.detail, finding
    assert fix in (finding.fix or ""), finding
    assert found(stack, check).verdict is Verdict.OK


def test_a_database_that_is_read_only_is_found(stack: RunningStack) -> None:
    """Of doctor's own session: a pool that connects meanwhile would stay so for other tests."""
    url = stack.values["DATABASE_URL"]
    options = "options=-c%20default_transaction_read_only%3Don"

    finding = found(stack, "storage", DATABASE_URL=f"{url}{'&' if '?' in url else '?'}{options}")

    assert finding.verdict is Verdict.FAIL, finding
    assert "the database is read-only" in finding.detail
    assert "set default_transaction_read_only = off;" in str(finding.fix)


@pytest.mark.parametrize(("days", "verdict"), [(31, Verdict.OK), (12, Verdict.WARN)])
def test_a_workers_key_that_expires_soon_is_found(
    stack: RunningStack, days: int, verdict: Verdict
) -> None:
    """Thirty days before, so that it meets no holiday."""
    ends = int(time.time()) + days * 86_400 + 600
    key = jwt.encode({"role": "job_worker", "exp": ends}, stack.supabase_jwt_secret, "HS256")

    finding = found(stack, "worker-key", SUPABASE_WORKER_KEY=key)

    assert finding.verdict is verdict, finding
    if verdict is Verdict.WARN:
        assert "expires in 12 days" in finding.detail
        assert "minutehand rotate" in str(finding.fix)


def test_a_workers_key_with_more_rights_than_it_needs_is_found(stack: RunningStack) -> None:
    """It works, which is why no one would look."""
    key = jwt.encode({"role": "service_role"}, stack.supabase_jwt_secret, "HS256")

    finding = found(stack, "worker-key", SUPABASE_WORKER_KEY=key)

    assert finding.verdict is Verdict.WARN, finding
    assert "its role is service_role" in finding.detail


def test_what_is_not_installed_as_it_is_locked_is_named(tmp_path: Path) -> None:
    """In a checkout; and a zip that was not made of it is not deployed."""
    lock = {
        "": {"dependencies": {"one": "^1"}, "devDependencies": {"two": "^2"}},
        "node_modules/one": {"version": "1.0.0"},
        "node_modules/two": {"version": "2.0.0"},
    }
    files = {
        "pyproject.toml": '[project]\nname = "minutehand"\ndependencies = ["httpx>=0.1", "nothere"]\n',
        "requirements.lock": "httpx==0.0.1\n    # via minutehand\nnothere==1.0\n    # via minutehand\n",
        "package-lock.json": json.dumps({"packages": lock}),
        "node_modules/one/package.json": '{"version": "0.9.0"}',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    checks = {check.name: check for check in CHECKS}

    def said(name: str, stage: str | None = None) -> tuple[Verdict, str]:
        finding = run(checks[name], Target({}, stage, root=tmp_path))
        return finding.verdict, finding.detail

    assert said("python-packages") == (
        Verdict.FAIL, f"httpx is {version('httpx')}, locked 0.0.1; nothere is missing"
    )  # fmt: skip
    assert said("node-packages") == (
        Verdict.FAIL, "one is 0.9.0, locked 1.0.0; two is missing, locked 2.0.0"
    )  # fmt: skip
    assert said("package")[0] is Verdict.SKIP
    built = {"magic": "cb0d0d0a", "python": "3.12.1", "archive": "app.zip"}
    manifest = tmp_path / "build" / "aws" / "app.manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps(built))
    assert "byte code of Python 3.12.1" in said("package")[1]
    manifest.write_text(json.dumps({**built, "magic": machine.MAGIC_3_13}))
    assert said("package") == (Verdict.WARN, "app.zip is older than the sources")
    assert said("package", "prod")[0] is Verdict.FAIL


def test_the_messages_to_realtime_are_shown(stack: RunningStack) -> None:
    """The rate, what was held back, and what a month would cost."""
    finding = found(stack, "messages")

    assert finding.verdict in {Verdict.OK, Verdict.WARN}
    assert "of 400 messages/s (pro)" in finding.detail
    assert "on Pro" in finding.detail


def test_a_job_that_maintenance_cannot_make_ready_is_found(stack: RunningStack) -> None:
    """It is parked, which nobody else would notice."""
    assert found(stack, "maintenance").verdict is Verdict.OK
    with HandWorker(stack, stack.demo_workspace_id) as worker, stack.connect() as connection:
        later = worker.enqueue(delay_seconds=3600)
        try:
            connection.execute(
                "create function public.break_it() returns trigger language plpgsql as"
                " $$ begin raise exception 'a broken trigger'; end; $$"
            )
            connection.execute(
                "create trigger break_it before insert on queue.ready for each row"
                f" when (new.job_id = '{later}') execute function public.break_it()".encode()
            )
            # due from now on, and not before the trigger is there
            connection.execute(
                "update queue.deferred set run_at = now() where job_id = %s", (later,)
            )
            give_up = time.monotonic() + 60
            while (told := found(stack, "maintenance")).verdict is Verdict.OK:
                assert time.monotonic() < give_up, "nothing was parked"
                time.sleep(0.02)
        finally:
            connection.execute("drop function public.break_it cascade")
            connection.execute("delete from queue.parked where item = %s", (later,))

        assert told.verdict is Verdict.WARN
        assert f"promotion {later} is parked" in told.detail
        assert "a broken trigger" in told.detail
        assert worker.lease_soon()["job"]["id"] == later


def test_a_task_of_maintenance_that_fails_is_found(stack: RunningStack) -> None:
    """Whatever it was to do is not done meanwhile."""
    with stack.connect() as connection:
        [before] = connection.execute(
            "select failed_at, failures, failure from queue.maintenance_tasks"
            " where name = 'buckets'"
        ).fetchall()
        plant = (
            "update queue.maintenance_tasks set failed_at = %s, failures = %s, failure = %s"
            " where name = 'buckets'"
        )
        give_up = time.monotonic() + 60
        try:
            while True:  # a run of it that is under way takes the failure back
                connection.execute(plant, (datetime.now(UTC), 9, "no such table (42P01)"))
                told = found(stack, "maintenance")
                if told.verdict is Verdict.WARN or time.monotonic() > give_up:
                    break
        finally:
            connection.execute(plant, before)

    assert told.verdict is Verdict.WARN
    assert told.detail == "buckets fails: no such table (42P01)"


def test_a_silent_schedule_is_found(stack: RunningStack) -> None:
    """The one failure that no log line tells of."""
    stale = "insert into public.kept_ticks select * from queue.ticks; delete from queue.ticks"
    with stack.connect() as connection:
        connection.execute(
            "create table public.kept_ticks as select * from queue.ticks where false"
        )
        try:
            # the loop of the stack ticks on, so look until one look falls between two ticks
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                connection.execute(stale.encode())
                finding = found(stack, "schedule")
                if finding.verdict is Verdict.FAIL:
                    break
            while time.monotonic() < deadline:
                connection.execute("update queue.ticks set seen_at = now() - interval '4 minutes'")
                long_ago = found(stack, "schedule")
                if "the last tick was" in long_ago.detail:
                    break
        finally:
            connection.execute("drop table public.kept_ticks")
            # those after this one ask what runs: left with the next tick, as it was found
            while connection.execute("select from queue.ticks limit 1").fetchone() is None:
                assert time.monotonic() < deadline + 60
                time.sleep(0.05)

    assert finding.verdict is Verdict.FAIL, finding
    assert "no tick was ever seen" in finding.detail
    assert finding.fix
    assert long_ago.verdict is Verdict.FAIL, long_ago


def test_a_schedule_that_is_late_is_found(stack: RunningStack) -> None:
    """It has no problem, and nothing enqueues what it asks for."""
    late = (
        "update queue.schedules set next_at = now() - interval '6 minutes', problem = null"
        " where name = 'planted'"
    )
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.schedules"
            " (workspace_id, name, cron, timezone, job_type, payload, options, missed, next_at)"
            " values (%s, 'planted', '0 3 * * *', 'UTC', 'nobody', '{}', '{}', 'once', now())",
            (stack.demo_workspace_id,),
        )
        give_up = time.monotonic() + 60
        try:
            while True:  # until a look falls between two runs of maintenance
                connection.execute(late.encode())
                told = found(stack, "schedules")
                if "is late" in told.detail or time.monotonic() > give_up:
                    break
        finally:
            connection.execute("delete from queue.schedules where name = 'planted'")

    assert told.verdict is Verdict.WARN, told
    assert told.detail == "schedule planted is late"


def test_a_type_that_no_worker_serves_is_named_with_its_jobs(stack: RunningStack) -> None:
    """By doctor, and by the service itself: green would say that they are being worked on."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        worker.enqueue_many([{}] * 3)
        backlog, ready = found(stack, "backlog"), found(stack, "ready")
        give_up = time.monotonic() + 120
        while ready.verdict is Verdict.FAIL and time.monotonic() < give_up:
            ready = found(stack, "ready")  # a loop that a busy machine held up is due again

    assert (backlog.verdict, ready.verdict) == (Verdict.WARN, Verdict.WARN), ready
    assert f"3 wait: no worker serves {worker.job_type}" in backlog.detail
    assert backlog.fix is not None
    assert "deploy the processor" in backlog.fix
    assert worker.job_type in ready.detail


def test_the_report_is_printed_and_has_an_exit_code(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For people and for scripts."""
    monkeypatch.setenv("MINUTEHAND_ENV_FILE", str(stack.folder / "env"))
    monkeypatch.setenv("CORS_ORIGINS", "*")

    doctor = Run(("doctor", "--only"))

    assert [finding["verdict"] for finding in doctor.json("postgres")] == ["ok"]
    assert "2 checks, 0 failed" in doctor("postgres", "--only", "tokens").stdout
    planted = tmp_path / "env"
    planted.write_text(f"{(stack.folder / 'env').read_text()}\nCORS_ORIGINS=*\n")
    monkeypatch.setenv("MINUTEHAND_ENV_FILE", str(planted))
    assert "2 checks, 1 failed" in doctor("postgres", "--only", "cors", code=1).stdout
    assert [finding["detail"] for finding in doctor.json("proof")] == ["only with --stage"]
    assert doctor.refused("nothing")["code"] == "unknown_check"


def test_without_a_stack_it_looks_at_the_machine_alone() -> None:
    """A fresh clone has one thing to do next, not twenty."""
    findings = list(examine(Target({})))

    failed = [f for f in findings if f.verdict is Verdict.FAIL and f.check != "package"]
    assert [f.check for f in failed] == ["settings"]
    assert "minutehand dev" in str(failed[0].fix)


def test_every_fix_fits_on_one_line(stack: RunningStack) -> None:
    """A fix is read in a hurry."""
    everything_wrong: dict[str, Any] = {"STAGE": "prod", "SUPABASE_URL": "http://127.0.0.1:9"}
    with looking(stack, **everything_wrong, DATABASE_URL="postgresql://x@127.0.0.1:9/x") as target:
        findings = list(examine(target))

    for finding in findings:
        if finding.verdict in {Verdict.FAIL, Verdict.WARN}:
            assert finding.fix, finding
            assert "\n" not in finding.fix


def test_calls_of_the_database_that_are_refused_are_found(stack: RunningStack) -> None:
    """Its token is another than the worker's: nothing runs, and only pg_net's table knows."""
    with stack.connect() as connection:
        create(connection, PG_NET, VAULT)
        try:
            connection.execute(
                "select public.connect_worker(%s, %s)",
                (f"{stack.api_url}/api/jobs/worker", "the-token-of-another-worker"),
            )
            connection.execute(
                "insert into net._http_response (id, status_code, content, timed_out)"
                """ values (1, 401, '{"error": "Unauthorized"}', false)"""
            )
            refused = found(stack, "database-invokes")
            connection.execute("update net._http_response set status_code = 200")
            accepted = found(stack, "database-invokes")
        finally:
            drop(connection)
            connection.execute("delete from queue.settings where name like 'worker_%'")

    assert refused.verdict is Verdict.WARN, refused
    assert "returned 401" in refused.detail
    assert "connect_worker" in str(refused.fix)
    assert accepted.verdict is Verdict.OK, accepted


def test_a_project_without_users_is_found(stack: RunningStack) -> None:
    """After a clean deploy the service runs, and no person may do anything with it."""
    with stack.connect() as connection:
        connection.execute("create table public.kept_members as table public.workspace_members")
        try:
            connection.execute("alter table public.workspace_members disable trigger user")
            connection.execute("delete from public.workspace_members")
            locked_out = found(stack, "members")
        finally:
            connection.execute(
                "insert into public.workspace_members table public.kept_members"
                " on conflict do nothing"
            )
            connection.execute("alter table public.workspace_members enable trigger user")
            connection.execute("drop table public.kept_members")

    assert locked_out.verdict is Verdict.FAIL, locked_out
    assert "minutehand workspaces create" in str(locked_out.fix)
    assert found(stack, "members").verdict is Verdict.OK


def test_looking_leaves_the_session_as_it_was(stack: RunningStack) -> None:
    """A pooler gives the server's connection to another client: nothing may stay set on it."""
    with looking(stack) as target:
        assert target.ask("show transaction_read_only") == [("on",)]
        connection = target.database
        connection.rollback()
        connection.read_only = False
        left = connection.execute(
            "select current_setting('default_transaction_read_only'), pg_current_xact_id() is not null"
        ).fetchone()

    assert left == ("off", True)


GUESTS = '"minutehand: guests follow their session"'


def test_only_a_fix_that_is_asked_for_changes_anything(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look says what is not attached; --fix attaches it, by the operator's key or as owner."""
    monkeypatch.setenv("MINUTEHAND_ENV_FILE", str(stack.folder / "env"))
    extensions = Run(("doctor", "--only", "extensions"))
    with stack.connect() as connection:
        connection.execute(f"drop policy if exists {GUESTS} on realtime.messages")
        [looked] = extensions.json(code=1)
        [fixed] = extensions.json("--fix")
        connection.execute(f"drop policy {GUESTS} on realtime.messages")
    with looking(stack, SUPABASE_SECRET_KEY=None) as target:
        attach(target, Output(as_json=True))

    assert (looked["verdict"], fixed["verdict"]) == ("fail", "ok")
    assert found(stack, "extensions").verdict is Verdict.OK
