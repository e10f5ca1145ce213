"""Runs the checks, causes before what follows from them, and prints what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import psycopg
from rich.text import Text

from minutehand.cli.doctor import checks, proof  # noqa: F401 - whose checks are CHECKS
from minutehand.cli.doctor.findings import CHECKS, Check, Finding, Target, fail, skip
from minutehand.cli.stage import Stage
from minutehand.config import ConfigurationError
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.output import Output

#: Of the environment, with --stage: who asks, and the database.
ASKING = ("DATABASE_URL", "MINUTEHAND_EMAIL", "MINUTEHAND_PASSWORD", "MINUTEHAND_TOKEN")
MARKS = {
    "ok": ("ok  ", "green"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "bold red"),
    "skip": ("-   ", "dim"),
}
PASSWORD = "reset it in Project settings → Database, and write it percent-encoded"
CONNECT = (
    "restore the project if it is paused, and copy the address again from its Connect dialog: the "
    "session pooler needs no IPv6, and the user postgres.<project-ref>"
)


def report(
    output: Output, stage: str | None, only: Iterable[str], region: str, env_file: Path | None
) -> bool:
    """Print what each check says as it comes; whether one failed."""
    names = {check.name for check in CHECKS}
    if unknown := sorted(set(only) - names):
        raise CommandFailed(
            f"unknown check {unknown[0]}", code="unknown_check", fix=", ".join(sorted(names))
        )
    target = _local(env_file) if stage is None else _deployed(Stage(stage, region), env_file)
    findings = []
    try:
        for finding in examine(target, only):
            findings.append(finding)
            if not output.as_json:
                _tell(output, finding)
    finally:
        target.close()
    bad, odd = ([f.verdict for f in findings].count(word) for word in ("fail", "warn"))
    output.value(
        [asdict(finding) for finding in findings],
        text=f"{len(findings)} checks, {bad} failed, {odd} warnings",
    )
    return bad > 0


def _local(env_file: Path | None) -> Target:
    """What is named, or runs here; without any, the checks say so."""
    try:
        return Target(load_values(env_file))
    except CommandFailed:
        if env_file is not None:
            raise
        return Target({})


def _deployed(stage: Stage, env_file: Path | None) -> Target:
    """A stage with the values it runs with; a named file's values take precedence over AWS's.

    The environment adds who is asking and the database's address, never the local stack's values.
    """
    asking = {name: os.environ[name] for name in ASKING if os.environ.get(name)}
    given = {} if env_file is None else load_values(env_file, asking)
    target = Target(stage.filled_in(), stage)
    try:
        target.values = {**target.values, **stage.environment()}
    except CommandFailed as failed:
        target.aws_away = failed
    named = {name: value for name, value in {**asking, **given}.items() if value}
    target.values = {**target.values, **named}
    return target


def examine(target: Target, only: Iterable[str] = ()) -> Iterator[Finding]:
    """Every check's finding, causes first; what is named is not to be skipped."""
    names = set(only)
    causes: dict[str, str] = {}
    for check in CHECKS:
        if check.name not in names if names else check.staged and target.stage is None:
            continue
        if cause := next((causes[name] for name in check.after if name in causes), None):
            finding = skip(f"see {cause}")
            causes[check.name] = cause
        else:
            finding = look(check, target)
        if finding.verdict == "skip" and check.name in names:
            finding = fail(f"not checked: {finding.detail}", "see the message")
        if finding.verdict == "fail":
            causes.setdefault(check.name, check.name)
        yield replace(finding, check=check.name)


def look(check: Check, target: Target) -> Finding:
    """One check; what it could not reach is a finding, not a traceback."""
    if missing := [name for name in check.needs if not target.values.get(name)]:
        return skip(f"{', '.join(missing)} not set")
    if check.as_worker and target.aws_away and not target.values.get("SUPABASE_WORKER_KEY"):
        return skip("the worker's key lies in AWS, which does not tell it")
    try:
        return check.run(target)
    except ConfigurationError as error:
        return fail(str(error).split(". Example")[0], f"set {error.variable}={error.example}")
    except CommandFailed as failed:
        return fail(str(failed), failed.fix or "see the message")
    except httpx.HTTPError as error:
        fix = "start it: `minutehand dev`, or correct its address"
        if not target.is_local:
            fix = "correct its address, or restore the project in Supabase's dashboard"
        return fail(f"{error.request.url} does not answer ({type(error).__name__})", fix)
    except psycopg.Error as error:
        told = str(error).strip().splitlines()[0]
        if not isinstance(error, psycopg.OperationalError):
            return fail(f"the database refuses the query: {told}", target.migrate)
        if re.search("password|SASL", told):
            return fail(f"the password in DATABASE_URL is wrong ({told})", PASSWORD)
        return fail(f"the database does not answer: {told}", CONNECT)


def _tell(output: Output, finding: Finding) -> None:
    mark, style = MARKS[finding.verdict]
    detail = finding.detail, "dim" if finding.verdict == "ok" else ""
    output.text(Text.assemble((mark, style), f"  {finding.check:<16}  ", detail))
    if finding.fix:
        output.text(f"      → {finding.fix}")
