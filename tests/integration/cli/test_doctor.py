"""The faults that stop people, planted one by one: doctor names each, and its fix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest

from minutehand.cli.doctor.findings import Finding, Target
from minutehand.cli.doctor.runner import run_checks
from tests.support.command import Run
from tests.support.patience import until
from tests.support.pgbouncer import pooled
from tests.support.stacks import RunningStack


def planted(stack: RunningStack, changes: Mapping[str, str | None]) -> Target:
    """The stack with some values planted; None takes one away."""
    values = {**stack.values, **changes}
    return Target({name: value for name, value in values.items() if value is not None})


def found(stack: RunningStack, check: str, **changes: str | None) -> Finding:
    """What one check says with those values planted."""
    [finding] = run_checks(planted(stack, changes), [check])
    return finding


def test_a_healthy_stack_has_nothing_wrong(stack: RunningStack) -> None:
    """A doctor that cries wolf is not asked twice."""
    # on a busy machine a tick may be late, or an answer
    good = {"ok", "skip"}
    until(lambda: {each.verdict for each in run_checks(planted(stack, {}))} <= good, every=2)


REF = "abcdefghijklmnopqrst"
SERVICE_ROLE = jwt.encode({"role": "service_role"}, "x" * 32, "HS256")
EXPIRED = jwt.encode({"role": "job_worker", "exp": 1}, "x" * 32, "HS256")
#: The one check that fails | what is planted | a word of the detail | a word of the fix
FAULTS = """\
settings | SUPABASE_PUBLISHABLE_KEY= | is not set | sb_publishable
settings | SUPABASE_URL={dashboard} | dashboard's address | SUPABASE_URL={hosted}
settings | API_URL={hosted} | not Supabase's address | minutehand deploy
settings | SUPABASE_PUBLISHABLE_KEY={service_role} | secret key | sb_publishable_
settings | WORKER_SECRET_TOKEN= | WORKER_SECRET_TOKEN is not set | WORKER_SECRET_TOKEN=
settings | BACKGROUND_JOB_TOKEN=dev-secret-token | must differ | BACKGROUND_JOB_TOKEN=
settings | CORS_ORIGINS=https://a.test/ | no browser sends https://a.test/ | CORS_ORIGINS=
settings | STAGE=prod | must be encrypted | https://
settings | MINUTEHAND_APPS=no_such_app | no_such_app | MINUTEHAND_APPS
database | DATABASE_URL={wrong_password} | password in DATABASE_URL is wrong | percent-encoded
queue | DATABASE_URL={read_only} | rejects writes | default_transaction_read_only = off
database | MINUTEHAND_SCHEMA=minutehnd | the schema is public | MINUTEHAND_SCHEMA=public
worker-key | SUPABASE_JWT_SECRET=of-another-project-of-ours-12345 | rejected | SUPABASE_JWT_SECRET=
supabase | SUPABASE_PUBLISHABLE_KEY=sb_publishable_wrong | rejected | API keys
supabase | SUPABASE_URL=http://127.0.0.1:9 | does not respond | SUPABASE_URL=…
worker-key | SUPABASE_WORKER_KEY={expired} | the worker was rejected | token worker
api | API_URL=http://127.0.0.1:9 | does not respond | minutehand dev
"""


@pytest.mark.parametrize("fault", FAULTS.splitlines())
def test_one_fault_is_one_finding_with_its_own_fix(stack: RunningStack, fault: str) -> None:
    """What follows from it is not reported: twenty lines about one password hide the password."""
    url = stack.values["DATABASE_URL"]
    read_only = "options=-c%20default_transaction_read_only%3Don"
    line = fault.format(
        dashboard=f"https://supabase.com/dashboard/project/{REF}/settings",
        hosted=f"https://{REF}.supabase.co",
        service_role=SERVICE_ROLE,
        expired=EXPIRED,
        wrong_password=re.sub(r":[^:@/]+@", ":wrong@", url),
        read_only=f"{url}{'&' if '?' in url else '?'}{read_only}",
    )
    check, change, detail, fix = line.split(" | ")
    name, _, value = change.partition("=")
    findings = run_checks(planted(stack, {name: value or None}))
    failed = [each for each in findings if each.verdict == "fail"]

    assert [finding.check for finding in failed] == [check], failed
    assert detail in failed[0].detail
    assert fix in str(failed[0].fix)


#: A package | what is wrong with a module of its processors | a word of the fix
MODULES = """\
lacking | import nonexist_lib | pip install nonexist_lib
misspelt | from minutehand import processer | python -c 'import misspelt.processors.bad'
divides | 1 / 0 | python -c 'import divides.processors.bad'
"""


@pytest.mark.parametrize("module", MODULES.splitlines())
def test_processors_that_cannot_be_imported_are_a_finding(
    stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """A user's module may raise anything, and a traceback is no report: nor with `--json`."""
    package, code, fix = module.split(" | ")
    folder = tmp_path / package / "processors"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "bad.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(env={**stack.values, "MINUTEHAND_APPS": package})

    [finding] = run.json("doctor", "--only", "processors", code=1)

    assert finding["detail"].startswith(f"{package}.processors.bad cannot be imported: ")
    assert fix in finding["fix"]


@pytest.mark.parametrize(
    ("mode", "verdict", "detail"),
    [("session", "ok", ""), ("transaction", "fail", "is a pooler in transaction mode")],
)
def test_a_pooler_is_known_by_what_it_keeps(
    stack: RunningStack, tmp_path: Path, mode: str, verdict: str, detail: str
) -> None:
    """It listens at any port."""
    with pooled(stack.database_url, tmp_path, mode=mode) as url:
        [found] = run_checks(planted(stack, {"DATABASE_URL": url}), ["sessions"])

    assert found.verdict == verdict
    assert detail in found.detail


BROKEN = Path(__file__).with_name("faults.sql").read_text("utf-8")
ONE = r"(?m)^-- (\S+) \| (\w+) \| (.+) \| (.+)\n((?:.+\n)+?)-- back: (.+)"


@pytest.mark.parametrize("fault", re.findall(ONE, BROKEN), ids=lambda fault: fault[2])
def test_a_broken_database_is_found(stack: RunningStack, fault: tuple[str, ...]) -> None:
    """By hand, by another tool, or by a full disk."""
    check, verdict, detail, fix, breaks, mends = fault
    with stack.connect() as sql:
        sql.execute(breaks.encode())
    try:
        finding = found(stack, check)
    finally:
        with stack.connect() as sql:
            sql.execute(mends.encode())

    assert finding.verdict == verdict, finding
    assert detail in finding.detail, finding
    assert fix in str(finding.fix), finding


def test_the_report_has_an_exit_code(stack: RunningStack) -> None:
    """For a person each finding with its fix; for a program one JSON list."""
    run = Run(env={**stack.values, "SUPABASE_PUBLISHABLE_KEY": SERVICE_ROLE})
    words = run("doctor", "--only", "settings", code=1)
    findings = run.json("doctor", "--only", "settings", code=1)

    assert "fail  settings" in words.stdout
    assert "→ SUPABASE_PUBLISHABLE_KEY=" in words.stdout
    assert [each["verdict"] for each in findings] == ["fail"]
