"""Runs the checks in their order, in which causes come before their consequences."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from minutehand.cli.doctor import checks, proof  # noqa: F401 - importing registers the checks
from minutehand.cli.doctor.results import CHECKS, Check, CheckResult, Target, fail, skip
from minutehand.cli.stage import Stage, resolve_region
from minutehand.config import ConfigurationError
from minutehand.project import Project
from minutehand.queue.connection_probe import PARAMETERS, is_invalid_address
from minutehand.queue.outbound_http import LOCAL_HOSTS
from minutehand.terminal.connection import CommandFailed, load_values

#: Environment variables that are used with --stage: the sign-in and the database's address.
STAGE_VARIABLES = ("DATABASE_URL", "MINUTEHAND_EMAIL", "MINUTEHAND_PASSWORD", "MINUTEHAND_TOKEN")
#: Error codes of missing optional settings. A check that fails with one of the error codes is
#: skipped, unless --only names the check.
OPTIONAL_CODES = {"missing_setting", "not_signed_in", "workspace_needed"}
#: Settings whose example values cannot be used as they are.
EXAMPLES = {"SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY"}
REJECTED = "the database rejected the query"
PASSWORD = (
    "DATABASE_URL=…  # with the password of Project settings → Database, percent-encoded: % is %25"
)
#: Pattern of an address with a character of the password that must be percent-encoded.
RAW_PASSWORD = r"\w+://[^/?#@]*(?:%(?![\da-fA-F]{2})|:(?!\d+/\w*\?)[^/?#@]*[/?#][^@]*@|@[^/?#]*@)"
CONNECT = (
    "DATABASE_URL=…  # of the dashboard's Connect dialog, which also restores a paused project; "
    "the session pooler works without IPv6, with the user postgres.<project-ref>"
)

SESSIONS = (
    "select application_name, usename, client_addr, count(*) from pg_stat_activity "
    "group by 1, 2, 3 order by 4 desc  # then give a smaller pool to the program with most"
)


def find_target(
    stage: str | None, region: str, env_file: Path | None, workspace: str | None = None
) -> Target:
    """Return the stack of this machine or of `env_file`, or a deployed stage with its settings.

    Values of `env_file` replace values from AWS. For a stage, the environment adds only the sign-in
    and the database's address, and no values of the local stack.
    """
    if stage is None:
        values = {**Project.find().environment, **load_values(env_file)}
        return Target(values, workspace=workspace)
    deployed = Stage(stage, resolve_region(region))
    environ = {name: os.environ.get(name, "") for name in STAGE_VARIABLES}
    values = environ if env_file is None else load_values(env_file, environ)
    overrides = {name: value for name, value in values.items() if value}
    try:
        return Target({**deployed.environment(), **overrides}, deployed, workspace)
    except CommandFailed:  # only the check `aws` runs, and reports the cause
        return Target({}, deployed, workspace)


def run_checks(target: Target, only: Collection[str] = ()) -> Iterator[CheckResult]:
    """Run the checks and yield their results. Only the checks in `only` run, if it names any."""
    names = [check.name for check in CHECKS]
    for name in set(only).difference(names):
        raise CommandFailed(f"unknown check {name}", code="unknown_check", fix=", ".join(names))
    if only and target.stage and not target.values:
        only = {*only, "aws"}  # otherwise all checks would be skipped, without any error
    failed, lock = dict[str, str](), None
    for check in CHECKS:
        if check.name not in only if only else check.staged and target.stage is None:
            continue
        cause = next((failed[name] for name in check.after if name in failed), None)
        if target.stage and not target.values and check.name != "aws":
            cause = "aws"
        result = skip(f"see {cause}") if cause else run_check(check, target, named=bool(only))
        for start, other in ((REJECTED, "engine"), ("not joined", "extensions")):
            if result.detail.startswith(start) and other in failed:
                result = skip(f"see {other}")
        if result.check:  # every later check would wait for the lock
            failed["locks"] = failed["migrations"] = result.check
        if cause or result.verdict == "fail":
            failed[check.name] = cause or result.check or check.name
        if check.name == "locks":
            lock = result.fix
        elif result.check and result.fix == lock:  # the check waited for the session in `locks`
            result = skip("see locks")
        yield replace(result, check=result.check or check.name)


def run_check(check: Check, target: Target, *, named: bool) -> CheckResult:
    """Run a check and convert each expected error to a result."""
    try:
        return check.run(target)
    except ConfigurationError as error:
        line = f"{error.variable}={error.example}"
        if error.variable in EXAMPLES:
            line = f"{error.variable}=…  # e.g. {error.example}"
        return fail(str(error).split(". Example")[0], line)
    except CommandFailed as failed:
        is_optional = failed.code in OPTIONAL_CODES and not named
        return skip(str(failed)) if is_optional else fail(str(failed), failed.fix)
    except httpx.HTTPError as error:
        url, names = str(error.request.url), ("SUPABASE_URL", "API_URL")
        name = next((n for n in names if url.startswith(target.values.get(n) or "?")), names[0])
        is_silent = isinstance(error, httpx.ReadTimeout)  # the address is reachable
        problem = f"does not respond ({type(error).__name__})"
        if is_silent:
            problem = "accepts connections but does not respond"
        return fail(f"{url} {problem}", target.restart(name, is_silent=is_silent))
    except psycopg.Error as error:
        message = str(error).strip().splitlines()[0]
        if re.match(RAW_PASSWORD, target.values["DATABASE_URL"]):
            return fail("the password in DATABASE_URL is not percent-encoded", PASSWORD)
        if is_invalid_address(error):
            return fail(f"libpq rejects DATABASE_URL: {message}", f"DATABASE_URL=…  # {PARAMETERS}")
        if isinstance(error, psycopg.errors.LockNotAvailable):
            locks = checks.locks(target)
            if locks.verdict in ("ok", "skip"):  # the session may block no one else now
                again = "minutehand doctor --only locks --only queue"
                locks = fail(f"a lock was not released in time: {message}", again)
            return replace(locks, check="locks")
        if not isinstance(error, psycopg.OperationalError):
            return fail(
                f"{REJECTED}: {message}",
                checks.find_grant(target, message)
                or checks.find_remedy(target, check.name, named=named),
            )
        if re.search("too many|remaining connection slots", message):
            full, found = "all connections of the database are in use", checks.find_sessions(target)
            if found:
                return fail(f"{full}: {found.detail}", found.fix)
            return fail(f"{full}: {message}", SESSIONS)
        if re.search("password|SASL", message):
            return fail(f"the password in DATABASE_URL is wrong ({message})", PASSWORD)
        fix = CONNECT
        if conninfo_to_dict(target.values["DATABASE_URL"]).get("host") in LOCAL_HOSTS:
            fix = target.restart("DATABASE_URL", is_silent="timeout" in message)
        return fail(f"the database does not respond: {message}", fix)
