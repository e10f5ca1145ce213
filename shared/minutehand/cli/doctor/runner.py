"""Runs the checks, causes before what follows from them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg

from minutehand.cli.doctor import checks, proof  # noqa: F401 - whose checks are CHECKS
from minutehand.cli.doctor.findings import CHECKS, Check, Finding, Target, fail, skip
from minutehand.cli.stage import Stage, asked_region
from minutehand.config import ConfigurationError
from minutehand.terminal.connection import CommandFailed, load_values

#: Of the environment, with --stage: who asks, and the database.
ASKING = ("DATABASE_URL", "MINUTEHAND_EMAIL", "MINUTEHAND_PASSWORD", "MINUTEHAND_TOKEN")
#: Codes of what was not given and need not be: unless the check is named, it is skipped.
NOT_GIVEN = {"missing_setting", "not_signed_in"}
ADDRESS = "{}=…  # where it answers; `minutehand dev` starts it here, a hosted one may be paused"
PASSWORD = "DATABASE_URL=…  # with the password of Project settings → Database, percent-encoded"
CONNECT = (
    "DATABASE_URL=…  # of the Connect dialog, where a paused project is restored: the session "
    "pooler needs no IPv6, and the user postgres.<project-ref>"
)


def target_of(
    stage: str | None, region: str, env_file: Path | None, workspace: str | None = None
) -> Target:
    """The stack of a file or of this machine, or a stage with the values it runs with.

    A named file's values take precedence over AWS's. For a stage the environment adds who is
    asking and the database's address, never the local stack's values.
    """
    if stage is None:
        return Target(load_values(env_file), workspace=workspace)
    deployed = Stage(stage, asked_region(region))
    asking = {name: os.environ[name] for name in ASKING if os.environ.get(name)}
    given = asking if env_file is None else load_values(env_file, asking)
    named = {name: value for name, value in given.items() if value}
    return Target({**deployed.environment(), **named}, deployed, workspace)


def examine(target: Target, only: Collection[str] = ()) -> Iterator[Finding]:
    """Every check's finding, causes first; what is named is not to be skipped."""
    names = [check.name for check in CHECKS]
    for name in set(only).difference(names):
        raise CommandFailed(f"unknown check {name}", code="unknown_check", fix=", ".join(names))
    causes: dict[str, str] = {}
    for check in CHECKS:
        if check.name not in only if only else check.staged and target.stage is None:
            continue
        cause = next((causes[name] for name in check.after if name in causes), None)
        finding = skip(f"see {cause}") if cause else look(check, target, named=bool(only))
        if cause or finding.verdict == "fail":
            causes[check.name] = cause or check.name
        yield replace(finding, check=check.name)


def look(check: Check, target: Target, *, named: bool) -> Finding:
    """One check; what it could not reach is a finding, not a traceback."""
    try:
        return check.run(target)
    except ConfigurationError as error:
        return fail(str(error).split(". Example")[0], f"{error.variable}={error.example}")
    except CommandFailed as failed:
        skipped = failed.code in NOT_GIVEN and not named
        return skip(str(failed)) if skipped else fail(str(failed), failed.fix)
    except httpx.HTTPError as error:
        url, names = str(error.request.url), ("SUPABASE_URL", "API_URL")
        name = next((n for n in names if url.startswith(target.values.get(n) or "?")), names[0])
        return fail(f"{url} does not answer ({type(error).__name__})", ADDRESS.format(name))
    except psycopg.Error as error:
        message = str(error).strip().splitlines()[0]
        if not isinstance(error, psycopg.OperationalError):
            return fail(f"the database refuses the query: {message}", target.migrate)
        if re.search("password|SASL", message):
            return fail(f"the password in DATABASE_URL is wrong ({message})", PASSWORD)
        return fail(f"the database does not answer: {message}", CONNECT)
