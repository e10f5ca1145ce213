"""Runs every check and prints the report; exit code 1 when one failed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import httpx
import psycopg
import typer
from rich.text import Text

from minutehand.cli.account import check_region
from minutehand.cli.doctor import cloud, database, proof, service, settings
from minutehand.cli.doctor.deployed import filled_in, stage_values
from minutehand.cli.doctor.findings import (
    Check,
    Finding,
    Target,
    Verdict,
    fail,
    skip,
)
from minutehand.cli.doctor.service import PAUSED, restore
from minutehand.cli.supabase_cli import HOSTED_DOMAINS, how_to_migrate
from minutehand.config import ConfigurationError
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.options import EnvFile, verb
from minutehand.terminal.output import Output

CHECKS: tuple[Check, ...] = (
    *settings.CHECKS,
    *database.CHECKS,
    *service.CHECKS,
    *cloud.CHECKS,
    *proof.CHECKS,
)
#: Of the environment, with --stage: who asks, and the database.
ASKING = (
    "AWS_ENDPOINT_URL",
    "DATABASE_URL",
    "MINUTEHAND_EMAIL",
    "MINUTEHAND_PASSWORD",
    "MINUTEHAND_TOKEN",
)
MARKS = {
    Verdict.OK: ("ok  ", "green"),
    Verdict.WARN: ("warn", "yellow"),
    Verdict.FAIL: ("FAIL", "bold red"),
    Verdict.SKIP: ("-   ", "dim"),
}


@verb
def doctor(
    output: Output,
    *,
    stage: Annotated[
        str | None,
        typer.Option(help="Also check this deployed stage, and prove it with a throw-away job."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this check; repeatable.")
    ] = None,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="First attach the parts that the database now has; without it, nothing is "
            "changed.",
        ),
    ] = False,
    region: Annotated[str, typer.Option(envvar="AWS_REGION")] = "us-east-1",
    env_file: EnvFile = None,
) -> None:
    """Find misconfigurations, and name the fix of each; without --fix nothing stays changed."""
    names = {check.name for check in CHECKS}
    if unknown := sorted(set(only or ()) - names):
        raise CommandFailed(
            f"unknown check {unknown[0]}", code="unknown_check", fix=", ".join(sorted(names))
        )
    target = (
        Target(_values(output, env_file))
        if stage is None
        else deployed_target(stage, region, env_file)
    )
    try:
        if fix:
            attach(target, output)
        findings = report(output, examine(target, only), quiet=output.as_json)
    finally:
        target.close()
    if output.as_json:
        output.line([asdict(finding) for finding in findings])
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)


def attach(target: Target, output: Output) -> None:
    """Attach extensions that came after the migrations; the only change made here."""
    if not target.values.get("SUPABASE_SECRET_KEY"):
        raise CommandFailed("--fix needs SUPABASE_SECRET_KEY", code="missing_setting")
    done = target.person.rpc("attach_extensions", {}, as_operator=True)
    output.note("attached: " + ", ".join(f"{name} {word}" for name, word in done.items()))


def _values(output: Output, env_file: Path | None) -> dict[str, str]:
    try:
        return load_values(env_file)
    except CommandFailed as failed:
        if env_file is not None:
            raise
        output.note(f"{failed}; checking this machine only")
        return {}


def deployed_target(stage: str, region: str, env_file: Path | None) -> Target:
    """A stage with the values it runs with; a named file's values take precedence over AWS's.

    The environment adds who is asking and the database's address, never the local stack's values.
    """
    check_region(region)
    asking = {name: os.environ[name] for name in ASKING if os.environ.get(name)}
    given = {} if env_file is None else load_values(env_file, asking)
    target = Target({**filled_in(stage), **asking, **given}, stage, region=region)
    try:
        told = stage_values(stage, region, target.aws)
    except CommandFailed as failed:
        target.aws_away = failed
        return target
    named = {name: value for name, value in given.items() if value}
    target.values = {**filled_in(stage), **told, **asking, **named}
    return target


def examine(target: Target, only: Iterable[str] | None = None) -> Iterator[Finding]:
    """Every check's finding, causes first; one that cannot run, or whose cause failed, says so."""
    names = set(only or ())
    causes: dict[str, str] = {}
    for check in CHECKS:
        if names and check.name not in names:
            continue
        if check.deployed and target.stage is None:
            if check.name in names:
                yield replace(skip("only with --stage"), check=check.name)
            continue
        if cause := next((causes[name] for name in check.after if name in causes), None):
            causes[check.name] = cause
            yield replace(skip(f"see {cause}"), check=check.name)
            continue
        finding = run(check, target)
        if finding.verdict is Verdict.FAIL:
            causes[check.name] = check.name
        yield finding


def run(check: Check, target: Target) -> Finding:
    """One check; what it could not reach is a finding, not a traceback."""
    return replace(_look(check, target), check=check.name)


def _look(check: Check, target: Target) -> Finding:
    if check.held_by_aws and target.aws_away is not None:
        return skip("kept in AWS, which cannot be queried")
    missing = [name for name in check.needs if not target.values.get(name)]
    if missing:
        return skip(f"{', '.join(missing)} not set")
    try:
        return check.run(target)
    except ConfigurationError as error:
        return fail(str(error).split(". Example")[0], f"set {error.variable}={error.example}")
    except httpx.HTTPError as error:
        return fail(*_unreachable(error, target))
    except psycopg.OperationalError as error:
        told = str(error).strip().splitlines()[0]
        return fail(*_refused(told))
    except psycopg.Error as error:
        told = str(error).strip().splitlines()[0]
        return fail(
            f"the database refuses the query: {told}",
            how_to_migrate(target.values.get("SUPABASE_URL", ""), target.stage),
        )
    except CommandFailed as failed:
        return fail(str(failed), failed.fix or "see the message")
    except Exception as error:  # boto3's errors have no common root that is worth importing here
        if type(error).__module__.split(".")[0] != "botocore":
            raise
        return fail(f"AWS does not answer: {error}", "check credentials and region")


def _unreachable(error: httpx.HTTPError, target: Target) -> tuple[str, str]:
    """Why an address does not answer, and what to do."""
    request = getattr(error, "_request", None)
    host = request.url.host if request is not None else "the service"
    if host.endswith(HOSTED_DOMAINS):
        return f"{host} does not answer: {PAUSED}", restore(host.partition(".")[0])
    fix = "start it: `minutehand dev`, or correct its address"
    return (
        f"{request.url if request is not None else host} does not answer ({type(error).__name__})",
        fix if target.is_local else "correct its address, or see its status page",
    )


#: What Postgres or a pooler says → what it means, and the fix.
REFUSALS = (
    (
        ("password authentication failed", "SASL authentication failed", "Wrong password"),
        "the password in DATABASE_URL is wrong",
        "reset it in Project settings → Database, and write it percent-encoded",
    ),
    (
        ("Tenant or user not found", "tenant/user", "ENOTFOUND"),
        "the pooler knows no such project: the user in DATABASE_URL must be postgres.<project-ref>",
        "copy the address again from the project's Connect dialog, session pooler",
    ),
    (
        ("could not translate host name", "Name or service not known", "failed to resolve host"),
        "the host in DATABASE_URL has no address: the project is paused, or the name is misspelt",
        "restore the project in the dashboard, or copy the address again from Connect",
    ),
    (
        ("Network is unreachable", "Cannot assign requested address", "No address associated"),
        "the database's address is IPv6 only, and this network has no IPv6",
        "take the session pooler's address from the project's Connect dialog",
    ),
)


def _refused(told: str) -> tuple[str, str]:
    """Why the database cannot be reached, and what to do."""
    for words, meaning, fix in REFUSALS:
        if any(word.lower() in told.lower() for word in words):
            return f"{meaning} ({told})", fix
    return f"the database does not answer: {told}", "correct DATABASE_URL"


def report(output: Output, findings: Iterable[Finding], *, quiet: bool) -> list[Finding]:
    """Print each finding as it comes; returns them all."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if quiet:
            continue
        mark, style = MARKS[finding.verdict]
        output.out.print(
            Text.assemble(
                (mark, style),
                f"  {finding.check:<20}  ",
                (finding.detail, "dim" if finding.verdict is Verdict.OK else ""),
            )
        )
        if finding.fix and finding.verdict in {Verdict.WARN, Verdict.FAIL}:
            output.out.print(Text(f"      → {finding.fix}"))
    bad = sum(finding.verdict is Verdict.FAIL for finding in seen)
    odd = sum(finding.verdict is Verdict.WARN for finding in seen)
    if not quiet:
        output.out.print(f"{len(seen)} checks, {bad} failed, {odd} warnings")
    return seen
