"""Random faults of a project's database and settings, and a user who follows `minutehand doctor`.

A fix is SQL for the editor, `NAME=value` for the settings, or a command. A comment may follow the
fix, and … marks a value that only the user has.
"""

import os
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import psycopg

from minutehand.app import built_in
from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import run_checks
from minutehand.install.catalog import read_record
from minutehand.install.rewrite import Schemas
from supabase_local.migrations import as_owner
from tests.support.command import Run
from tests.support.stacks import RunningStack

SEED = int(os.environ.get("DOCTOR_SEED") or 0)
REF = "abcdefghijklmnopqrst"
SERVICE_ROLE = jwt.encode({"role": "service_role"}, "x" * 32, "HS256")
EXPIRED = jwt.encode({"role": "job_worker", "exp": 1}, "x" * 32, "HS256")
#: The lines of faults.txt, by the title of their section.
TABLE = {
    title: [line.strip() for line in lines.splitlines()]
    for part in Path(__file__).with_suffix(".txt").read_text().split("\n\n")[1:]
    for title, _, lines in [part.partition("\n")]
}
#: Statements that damage a database object, by a pattern of the statement that creates it.
DAMAGES = {
    title.removeprefix("damage "): lines
    for title, lines in TABLE.items()
    if title.startswith("damage ")
}
#: The kinds of faults that make a database differ from its release.
KINDS = [line for lines in DAMAGES.values() for line in lines] + TABLE["drift"]
SQL = re.compile(
    r"(begin|select|set|alter|create|drop|grant|revoke|insert|delete|update)\b", re.IGNORECASE
)


class Fault(NamedTuple):
    """A statement or a setting that breaks a project, and a word that the doctor must print."""

    kind: str
    word: str
    text: str


def list_drifts() -> Iterator[Fault]:
    """List the faults that damage an object of the release, and other differences from it."""
    for fact in read_record(Schemas(), built_in(())) or ():
        for pattern, lines in DAMAGES.items():
            if match := re.match(pattern, fact.statement):
                for damage in lines:
                    word = re.split(r"[. ]", fact.object.partition("(")[0])[-1].strip('"')
                    text = damage.format(*match.groups(), object=fact.object, name=word)
                    yield Fault(damage, word, text)
    yield from _named("drift")


def _named(title: str) -> Iterator[Fault]:
    for line in TABLE[title]:
        word, _, text = line.partition(": ")
        yield Fault(line, word, text)


def list_faults(stack: RunningStack) -> Iterator[Fault]:
    """List all faults of a database and of a stack's settings."""
    yield from list_drifts()
    yield from _named("other")
    url = stack.values["DATABASE_URL"]
    for line in TABLE["setting"]:
        text = line.format(
            ref=REF,
            service_role=SERVICE_ROLE,
            expired=EXPIRED,
            **{
                f"{name}_key": jwt.encode(
                    {"role": role, "exp": 4e9}, stack.values["SUPABASE_JWT_SECRET"], "HS256"
                )
                for name, role in (("service", "service_role"), ("person", "authenticated"))
            },
            # These are URLs of servers that do not serve the expected paths.
            aws=stack.values["AWS_ENDPOINT_URL"],
            supabase=stack.values["SUPABASE_URL"],
            no_key=__file__,
            wrong_password=re.sub(r":[^:@/]+@", ":wrong@", url),
            raw_password=re.sub(r":[^:@/]+@", ":p#ss/word@", url),
            percent_password=re.sub(r":[^:@/]+@", ":p%w@", url),
            wrong_port=re.sub(r":\d+/", ":9/", url),
            no_database=f"{url}_of_none",
            bare_database=url.replace("/postgres", "/template1"),
            prisma=f"{url}?pgbouncer=true",
        )
        yield Fault(line, text.partition("=")[0], text)


def draw(faults: list[Fault], rng: random.Random) -> Fault:
    """Draw a random kind of fault, and then a random fault of this kind."""
    kind = rng.choice(sorted({fault.kind for fault in faults}))
    return rng.choice([fault for fault in faults if fault.kind == kind])


class World:
    """The database and the settings, which the doctor checks and a user can change."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack, self.values = stack, {**stack.values}

    def plant(self, fault: Fault) -> None:
        """Break the project with this fault."""
        name, _, value = fault.text.partition("=")
        if name.isupper():
            self.values[name] = value
            return
        with self.connect() as sql:
            sql.execute(fault.text.encode())

    def connect(self) -> psycopg.Connection[Any]:
        """Connect as the project's owner, as the dashboard's SQL editor does."""
        owner = as_owner(self.stack.values["DATABASE_URL"])
        return psycopg.connect(owner, autocommit=True)

    def wrong(self) -> list[CheckResult]:
        """Run the doctor and return its failures and warnings."""
        values = {name: value for name, value in self.values.items() if value}
        findings = run_checks(Target(values))
        return [finding for finding in findings if finding.verdict in ("fail", "warn")]

    def paste(self, findings: list[CheckResult]) -> None:
        """Apply each printed fix once, exactly as printed."""
        for finding in findings:
            text = str(finding.fix)
            for fix in [text] if SQL.match(text) else text.splitlines():
                self._paste(fix.strip())

    def _paste(self, fix: str) -> None:
        if SQL.match(fix):
            with self.connect() as editor:
                editor.execute(fix.encode())
            return
        line, _, comment = (part.strip() for part in fix.partition("  # "))
        name, assigned, value = line.partition("=")
        if assigned and name.isupper():
            is_known = "…" in value or REF in value  # the user knows the project's real value
            self.values[name] = self.stack.values[name] if is_known else value
        elif line.startswith("minutehand ") and line != "minutehand dev":  # this command never ends
            output = Run(env=self.values)(*shlex.split(line)[1:]).stdout.strip()
            if comment.startswith("as "):
                self.values[comment.removeprefix("as ")] = output
        elif line != "minutehand dev":
            raise AssertionError(f"the fix must be text to paste: {fix}")
