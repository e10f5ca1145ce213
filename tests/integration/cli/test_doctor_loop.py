"""Doctor as a person uses it: a fault, the printed fix pasted as it is, and nothing failed.

A fix is SQL for the editor, `NAME=value` for the settings, or a command; a comment behind it says
more, and … in a value marks what only its reader has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
#: In settings and environment: {url} is the database's, {…} values made above or below.
SETTINGS = """\
SUPABASE_PUBLISHABLE_KEY=
SUPABASE_PUBLISHABLE_KEY=sb_publishable_wrong
SUPABASE_PUBLISHABLE_KEY=sb_secret_of_the_project
SUPABASE_PUBLISHABLE_KEY={service_role}
SUPABASE_URL=https://supabase.com/dashboard/project/{ref}/settings
SUPABASE_URL=db.{ref}.supabase.co
SUPABASE_URL=http://127.0.0.1:9
SUPABASE_URL={elsewhere}
API_URL=https://{ref}.supabase.co
API_URL=http://127.0.0.1:9
API_URL={elsewhere}
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
    """What doctor looks at, and a person can change."""

    def __init__(self, stack: RunningStack, **planted: str) -> None:
        self.stack, self.values, self.clock_is_right = stack, {**stack.values, **planted}, False

    @property
    def owner(self) -> str:
        """The project's owner, as whom the dashboard's editor runs."""
        return as_user(self.stack.values["DATABASE_URL"], "postgres")

    def wrong(self) -> list[Finding]:
        """What doctor says that is not well."""
        values = {name: value for name, value in self.values.items() if value}
        return [each for each in run_checks(Target(values)) if each.verdict in ("fail", "warn")]

    def paste(self, fix: str) -> None:
        """Do what a fix says, word for word."""
        if SQL.match(fix):
            with psycopg.connect(self.owner, autocommit=True) as editor:
                editor.execute(fix.encode())
            return
        line, _, comment = (part.strip() for part in fix.partition("  # "))
        name, assigned, value = line.partition("=")
        if assigned and name.isupper():
            self.values[name] = self.stack.values[name] if "…" in value else value
        elif line.startswith("minutehand ") and line != "minutehand dev":  # which runs on
            said = Run(env=self.values)(*shlex.split(line)[1:]).stdout.strip()
            if comment.startswith("as "):
                self.values[comment.removeprefix("as ")] = said
        elif line == "timedatectl set-ntp true":
            self.clock_is_right = True
        else:
            raise AssertionError(f"nothing that can be pasted: {fix}")

    def mend(self, found: list[Finding]) -> None:
        """Paste each printed fix, until nothing is wrong; each fault takes three rounds at most."""
        for _ in range(3):
            for finding in found:
                whole = str(finding.fix)
                for fix in [whole] if SQL.match(whole) else whole.splitlines():
                    self.paste(fix.strip())
            if not (found := self.wrong()):
                return
        assert [finding for finding in found if finding.check != "schedule"] == []
        until(lambda: not self.wrong(), every=1)  # on a busy machine a tick may be late


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("fault", [*PLANTED])
def test_a_fault_in_the_database_goes_by_its_fix(doomed: RunningStack, fault: str) -> None:
    world = World(doomed)
    with psycopg.connect(world.owner, autocommit=True) as sql:
        sql.execute(PLANTED[fault].encode())

    found = world.wrong()
    world.mend(found)

    assert found, fault


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("fault", SETTINGS.splitlines())
def test_a_fault_in_the_settings_goes_by_its_fix(doomed: RunningStack, fault: str) -> None:
    url = doomed.values["DATABASE_URL"]
    with another_server() as elsewhere:
        name, _, value = fault.format(
            ref=REF,
            service_role=SERVICE_ROLE,
            expired=EXPIRED,
            service_key=jwt.encode(
                {"role": "service_role", "exp": 4e9}, doomed.values["SUPABASE_JWT_SECRET"], "HS256"
            ),
            elsewhere=elsewhere,
            wrong_password=re.sub(r":[^:@/]+@", ":wrong@", url),
            wrong_port=re.sub(r":\d+/", ":9/", url),
            no_database=f"{url}_of_none",
            bare_database=url.replace("/postgres", "/template1"),
        ).partition("=")
        world = World(doomed, **{name: value})

        found = world.wrong()
        world.mend(found)

    assert found, fault


def test_a_wrong_clock_goes_by_its_fix(doomed: RunningStack) -> None:
    """The other's clock is what its answers say."""
    world = World(doomed)
    with skewed(doomed.values["SUPABASE_URL"], world) as url:
        world.values["SUPABASE_URL"] = url

        found = world.wrong()
        world.mend(found)

    assert [finding.check for finding in found] == ["clock"]


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of this process, for the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    """One that writes no log."""

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes) -> None:
        """Send JSON."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def another_server() -> AbstractContextManager[str]:
    """Someone else's, which knows none of our paths."""

    class Elsewhere(Quiet):
        def do_GET(self) -> None:
            self.answer(404, b'{"error": "no such page"}')

    return serving(Elsewhere)


def skewed(url: str, world: World) -> AbstractContextManager[str]:
    """The same server, an hour ahead until this machine's clock is mended."""

    class Skewed(Quiet):
        def date_time_string(self, timestamp: float | None = None) -> str:
            ahead = timedelta(hours=0 if world.clock_is_right else 1)
            return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

        def do_GET(self) -> None:
            passed = {name: self.headers[name] for name in self.headers if name != "Host"}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            answer = httpx.request(self.command, url + self.path, headers=passed, content=body)
            self.answer(answer.status_code, answer.content)

        do_POST = do_GET

    return serving(Skewed)
