"""The faults that stop people, planted one by one: doctor names each, and its fix."""

# ruff: noqa: E501 - one planted fault per line reads as the table it is
from __future__ import annotations

import re
import time
from collections.abc import Mapping

import jwt
import pytest

from minutehand.cli.doctor.checks import share_a_session
from minutehand.cli.doctor.examine import examine
from minutehand.cli.doctor.findings import Finding, Target, Verdict
from tests.support.command import Run
from tests.support.stacks import RunningStack


def planted(stack: RunningStack, changes: Mapping[str, str | None]) -> Target:
    """The stack with some values planted; None takes one away."""
    values = {**stack.values, **changes}
    return Target({name: value for name, value in values.items() if value is not None})


def found(stack: RunningStack, check: str, **changes: str | None) -> Finding:
    """What one check says with those values planted."""
    [finding] = examine(planted(stack, changes), [check])
    return finding


def test_a_healthy_stack_has_nothing_wrong(stack: RunningStack) -> None:
    """A doctor that cries wolf is not asked twice."""
    give_up = time.monotonic() + 60
    while True:
        findings = list(examine(planted(stack, {})))
        wrong = [f for f in findings if f.verdict in {"fail", "warn"}]
        if wrong == [] or time.monotonic() > give_up:
            break  # on a busy machine a tick may be late, or an answer

    assert wrong == []


REF = "abcdefghijklmnopqrst"
SERVICE_ROLE = jwt.encode({"role": "service_role"}, "x" * 32, "HS256")
EXPIRED = jwt.encode({"role": "job_worker", "exp": 1}, "x" * 32, "HS256")
#: The one check that fails, what is planted, a word of the detail, a word of the fix
FAULTS: list[tuple[str, dict[str, str | None], str, str]] = [
    ("settings", {"SUPABASE_PUBLISHABLE_KEY": None}, "is not set", "sb_publishable"),
    ("settings", {"LOG_LEVEL": "LOUD"}, "LOG_LEVEL must be one of", "LOG_LEVEL=INFO"),
    ("settings", {"SUPABASE_URL": f"https://supabase.com/dashboard/project/{REF}/settings"}, "dashboard's address", f"SUPABASE_URL=https://{REF}.supabase.co"),
    ("settings", {"API_URL": f"https://{REF}.supabase.co"}, "API_URL is Supabase's address", "minutehand deploy"),
    ("settings", {"SUPABASE_PUBLISHABLE_KEY": SERVICE_ROLE}, "secret key", "sb_publishable_"),
    ("settings", {"WORKER_SECRET_TOKEN": None}, "WORKER_SECRET_TOKEN is not set", "token secret"),
    ("settings", {"BACKGROUND_JOB_TOKEN": "dev-secret-token"}, "are equal", "token secret"),
    ("settings", {"CORS_ORIGINS": "https://a.test/"}, "no browser sends https://a.test/", "CORS_ORIGINS=https://a.test"),
    ("settings", {"STAGE": "prod"}, "not encrypted", "https://"),
    ("settings", {"MINUTEHAND_APPS": "no_such_app"}, "no_such_app", "MINUTEHAND_APPS"),
    ("database", {"DATABASE_URL": "{wrong_password}"}, "password in DATABASE_URL is wrong", "percent-encoded"),
    ("database", {"DATABASE_URL": "{read_only}"}, "takes no writes", "default_transaction_read_only = off"),
    ("supabase", {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_wrong"}, "refused", "API keys"),
    ("supabase", {"SUPABASE_URL": "http://127.0.0.1:9"}, "does not answer", "address"),
    ("worker-key", {"SUPABASE_WORKER_KEY": EXPIRED}, "the worker is refused", "token worker"),
    ("api", {"API_URL": "http://127.0.0.1:9"}, "does not answer", "minutehand dev"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "fault", "detail", "fix"), FAULTS)
def test_one_fault_is_one_finding_with_its_own_fix(
    stack: RunningStack, check: str, fault: dict[str, str | None], detail: str, fix: str
) -> None:
    """What follows from it is not reported: twenty lines about one password hide the password."""
    url = stack.values["DATABASE_URL"]
    urls = {
        "{wrong_password}": re.sub(r":[^:@/]+@", ":wrong@", url),
        "{read_only}": f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don",
    }
    changes = {name: urls.get(value or "", value) for name, value in fault.items()}
    failed = [each for each in examine(planted(stack, changes)) if each.verdict == "fail"]

    assert [finding.check for finding in failed] == [check], failed
    assert detail in failed[0].detail
    assert fix in str(failed[0].fix)


def test_a_pooler_in_transaction_mode_is_known_by_its_sessions(stack: RunningStack) -> None:
    """By what it does: it listens at any port."""
    with stack.connect() as first, stack.connect() as second:
        assert not share_a_session(first, second)
        assert share_a_session(first, first)


#: check, SQL that breaks it, SQL that mends it, verdict, a word of the detail, a word of the fix
BROKEN: list[tuple[str, str, str, Verdict, str, str]] = [
    ("migrations",
     "update supabase_migrations.schema_migrations set version = '2' || version where version = (select min(version) from supabase_migrations.schema_migrations)",
     "update supabase_migrations.schema_migrations set version = substr(version, 2) where length(version) > 14",
     "fail", "not applied", "migration"),
    ("publication",
     "alter publication supabase_realtime drop table public.job_logs",
     "alter publication supabase_realtime add table public.job_logs",
     "warn", "job_logs", "alter publication"),
    ("extensions",
     'drop policy "minutehand: members and guests follow" on realtime.messages',
     "select public.attach_extensions()",
     "fail", "no one can follow a job live", "attach_extensions()"),
    ("extensions",
     "create schema theirs; create function theirs.f() returns int language plpgsql as 'begin perform queue.refuse_revoked(); return 1; end'; grant execute on function theirs.f to job_worker",
     "drop schema theirs cascade",
     "fail", "the worker may not use the schema of theirs.f", "grant usage on schema theirs to job_worker"),
    ("queue",
     "insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id) values (0, gen_random_uuid(), 'enrich_acount', '', 0, gen_random_uuid())",
     "delete from queue.gated where lane = 0",
     "warn", "1 jobs wait: no worker serves enrich_acount", "minutehand types"),
    ("queue",
     "update queue.tasks set failures = 9, failure = 'it is referenced', done_at = now() where name = 'retention'",
     "update queue.tasks set failures = 0",
     "warn", "it is referenced", "tried again"),
    ("queue",
     "insert into queue.pauses (kind, name, job_type, reason) values ('type', 'chat_message', 'chat_message', 'on fire')",
     "delete from queue.pauses",
     "warn", "chat_message is paused. on fire", "minutehand resume --type chat_message"),
    ("project",
     "create table public.own (id int, workspace_id uuid); grant select on public.own to authenticated",
     "drop table public.own",
     "fail", "own shows every tenant's rows", "alter table own enable row level security"),
    ("project",
     "alter role authenticated set statement_timeout = '3600s'",
     "alter role authenticated set statement_timeout = '8s'",
     "warn", "a call of authenticated may hold a connection for 3600s", "statement_timeout = '8s'"),
    ("privileges",
     "revoke execute on function public.lease_jobs from job_worker",
     "grant execute on function public.lease_jobs to job_worker",
     "fail", "job_worker may execute public.lease_jobs", "grant execute on function public.lease_jobs(jsonb) to job_worker"),
    ("queue",
     "update queue.job_types set refusal = 'no such day' where job_type = 'chat_message'",
     "update queue.job_types set refusal = null",
     "warn", "chat_message was refused. no such day", "minutehand types chat_message"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "breaks", "mends", "verdict", "detail", "fix"), BROKEN)
def test_a_broken_database_is_found(
    stack: RunningStack,
    check: str,
    breaks: str,
    mends: str,
    verdict: Verdict,
    detail: str,
    fix: str,
) -> None:
    """By hand, by another tool, or by a full disk."""
    with stack.connect() as sql:
        sql.execute(breaks.encode())
    try:
        finding = found(stack, check)
    finally:
        with stack.connect() as sql:
            for statement in mends.split("; "):
                sql.execute(statement.encode())

    assert finding.verdict == verdict, finding
    assert detail in finding.detail, finding
    assert fix in str(finding.fix), finding


def test_the_report_has_an_exit_code(stack: RunningStack) -> None:
    """For a person each finding with its fix; for a program one JSON list."""
    told = Run(env={**stack.values, "SUPABASE_PUBLISHABLE_KEY": SERVICE_ROLE})
    words = told("doctor", "--only", "settings", code=1)
    findings = told.json("doctor", "--only", "settings", code=1)

    assert "fail  settings" in words.stdout
    assert "→ SUPABASE_PUBLISHABLE_KEY=" in words.stdout
    assert [each["verdict"] for each in findings] == ["fail"]
