"""The doctor in use: after a fault, the printed fix is pasted unchanged, and all checks pass.

A fix is SQL for the editor, `NAME=value` for the settings, or a command. A comment may follow it,
and … marks a value that only the reader has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import jwt
import psycopg
import pytest

from minutehand.cli.doctor.findings import Finding, Target
from minutehand.cli.doctor.runner import run_checks
from supabase_local.migrations import as_user
from tests.integration.cli.test_doctor import EXPIRED, REF, SERVICE_ROLE
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

PLANTED = dict(
    re.findall(r"(?m)^-- (.+)\n((?:(?!--).+\n)+)", Path(__file__).with_name("loop.sql").read_text())
)
#: Faulty settings; the test fills in the values in braces.
SETTINGS = """\
SUPABASE_PUBLISHABLE_KEY=
SUPABASE_PUBLISHABLE_KEY=sb_publishable_wrong
SUPABASE_PUBLISHABLE_KEY=sb_secret_of_the_project
SUPABASE_PUBLISHABLE_KEY={service_role}
SUPABASE_URL=https://supabase.com/dashboard/project/{ref}/settings
SUPABASE_URL=db.{ref}.supabase.co
SUPABASE_URL=http://127.0.0.1:9
SUPABASE_URL={aws}
API_URL=https://{ref}.supabase.co
API_URL=http://127.0.0.1:9
API_URL={supabase}
WORKER_SECRET_TOKEN=
WORKER_SECRET_TOKEN=a,b,c
BACKGROUND_JOB_TOKEN=dev-secret-token
CORS_ORIGINS=https://a.test/
CORS_ORIGINS=https://a.test,https://B.test/path
CORS_ORIGINS=a.test,http://localhost:3000
CORS_ORIGINS=https://a.test:443
MINUTEHAND_APPS=no_such_app
MINUTEHAND_SCHEMA=minutehnd
MINUTEHAND_SCHEMA=With Capitals
LOG_LEVEL=LOUD
WORKER_CONCURRENCY=many
WORKER_THREADS=0
STREAM_WAIT_SECONDS=60
ALLOW_ANONYMOUS=perhaps
AWS_ENDPOINT_URL=localhost:4566
SUPABASE_JWKS={{"keys": 1}}
SUPABASE_JWKS=none
LANGUAGE_MODEL_PRICES=cheap
DATABASE_URL={wrong_password}
DATABASE_URL={wrong_port}
DATABASE_URL={no_database}
DATABASE_URL={bare_database}
SUPABASE_JWT_SECRET=of-another-project-of-ours-12345
SUPABASE_WORKER_KEY={expired}
SUPABASE_WORKER_KEY={service_key}
"""
SQL = re.compile(r"(select|alter|create|drop|grant|revoke|insert|delete|update)\b", re.IGNORECASE)


class World:
    """The parts that the doctor checks and a person can change."""

    def __init__(self, stack: RunningStack, **planted: str) -> None:
        self.stack, self.values, self.clock_is_right = stack, {**stack.values, **planted}, False

    @property
    def owner(self) -> str:
        """Address of the database as the project's owner, the user of the dashboard's editor."""
        return as_user(self.stack.values["DATABASE_URL"], "postgres")

    def wrong(self) -> list[Finding]:
        """Run the doctor and return its failures and warnings."""
        values = {name: value for name, value in self.values.items() if value}
        findings = run_checks(Target(values))
        return [finding for finding in findings if finding.verdict in ("fail", "warn")]

    def paste(self, fix: str) -> None:
        """Apply a fix literally."""
        if SQL.match(fix):
            with psycopg.connect(self.owner, autocommit=True) as editor:
                editor.execute(fix.encode())
            return
        line, _, comment = (part.strip() for part in fix.partition("  # "))
        name, assigned, value = line.partition("=")
        if assigned and name.isupper():
            self.values[name] = self.stack.values[name] if "…" in value else value
        elif line.startswith("minutehand ") and line != "minutehand dev":  # which does not end
            output = Run(env=self.values)(*shlex.split(line)[1:]).stdout.strip()
            if comment.startswith("as "):
                self.values[comment.removeprefix("as ")] = output
        elif line == "timedatectl set-ntp true":
            self.clock_is_right = True
        else:
            raise AssertionError(f"the fix must be text to paste: {fix}")

    def repair(self, findings: list[Finding]) -> None:
        """Paste all printed fixes until nothing is wrong, in at most three rounds."""
        for _ in range(3):
            for finding in findings:
                text = str(finding.fix)
                for fix in [text] if SQL.match(text) else text.splitlines():
                    self.paste(fix.strip())
            if not (findings := self.wrong()):
                return
        assert [finding for finding in findings if finding.check != "schedule"] == []
        until(lambda: not self.wrong(), every=1)  # because a tick may be late on a busy machine


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("fault", [*PLANTED])
def test_a_fault_in_the_database_goes_by_its_fix(doomed: RunningStack, fault: str) -> None:
    world = World(doomed)
    with psycopg.connect(world.owner, autocommit=True) as sql:
        sql.execute(PLANTED[fault].encode())

    findings = world.wrong()
    world.repair(findings)

    assert findings, fault


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("fault", SETTINGS.splitlines())
def test_a_fault_in_the_settings_goes_by_its_fix(doomed: RunningStack, fault: str) -> None:
    url = doomed.values["DATABASE_URL"]
    name, _, value = fault.format(
        ref=REF,
        service_role=SERVICE_ROLE,
        expired=EXPIRED,
        service_key=jwt.encode(
            {"role": "service_role", "exp": 4e9}, doomed.values["SUPABASE_JWT_SECRET"], "HS256"
        ),
        # a server that has none of the paths
        aws=doomed.values["AWS_ENDPOINT_URL"],
        supabase=doomed.values["SUPABASE_URL"],
        wrong_password=re.sub(r":[^:@/]+@", ":wrong@", url),
        wrong_port=re.sub(r":\d+/", ":9/", url),
        no_database=f"{url}_of_none",
        bare_database=url.replace("/postgres", "/template1"),
    ).partition("=")
    world = World(doomed, **{name: value})

    findings = world.wrong()
    world.repair(findings)

    assert findings, fault


def test_a_wrong_clock_goes_by_its_fix(doomed: RunningStack) -> None:
    """The server's clock is read from the headers of its responses."""
    world = World(doomed)
    with skewed(doomed.values["SUPABASE_URL"], world) as url:
        world.values["SUPABASE_URL"] = url

        findings = world.wrong()
        world.repair(findings)

    assert [finding.check for finding in findings] == ["clock"]


@contextmanager
def skewed(url: str, world: World) -> Iterator[str]:
    """Run a proxy whose clock is an hour ahead until this machine's clock is corrected."""

    class Skewed(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            ahead = timedelta(hours=0 if world.clock_is_right else 1)
            return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

        def do_GET(self) -> None:
            headers = {name: self.headers[name] for name in self.headers if name != "Host"}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            response = httpx.request(self.command, url + self.path, headers=headers, content=body)
            self.send_response(response.status_code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Skewed) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
