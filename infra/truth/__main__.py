"""`make truth`: hold what runs locally against real servers of Supabase.

With an address and keys any project is asked: `requests` writes nothing but a guest session and one
row. The other parts need a project for trying, also one that was tried before, with DATABASE_URL a
superuser's. Without, the Supabase CLI starts the images of compose.yml, for which Docker is needed.
`--write` records what the real server answers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from psycopg.rows import dict_row

from infra.release.supabase_cli import supabase_cli
from infra.truth import filters
from infra.truth.product import wrong_reads
from infra.truth.requests import Place, Wrong, compare, reason_of, record
from minutehand.local.database import apply_project, seed_files
from minutehand.local.environment import demo_values, remote_values
from minutehand.local.users import create_demo_users
from minutehand.resources import PACKAGE
from supabase_local import migrations

ROOT: Final = PACKAGE.parents[1]
IMAGES: Final = Path(__file__).with_name("compose.yml")
#: Parts of Supabase that nothing here asks.
LEFT_OUT: Final = "storage-api,imgproxy,mailpit,postgres-meta,studio,edge-runtime,logflare,vector"
PROTOCOL: Final = "tests/supabase_local/realtime"
#: A part of the run → what pytest is given; what is asked of any server.
TESTS: Final[Mapping[str, Sequence[str]]] = {
    "realtime": [PROTOCOL, f"--ignore={PROTOCOL}/test_restart.py"],
    "clients": ["tests/e2e/live/test_hostile_wire.py"],
}
PARTS: Final = ("requests", "filters", "realtime", "clients", "demo")
#: A test of pytest's summary, or a job of the demo.
FAILURES: Final = re.compile(
    r"(?<=^FAILED )\S+|(?<=^ERROR )\S+|\S+: (?:failed|cancelled)$|not every job ended", re.MULTILINE
)


def main(arguments: Sequence[str]) -> int:
    """Run the parts; 0 when nothing differs but what is listed, 3 where no Docker is."""
    parser = argparse.ArgumentParser(prog="make truth", description=__doc__)
    parser.add_argument("--url", help="the address of a project; its keys are in the environment")
    parser.add_argument("--write", action="store_true", help="record the answers instead")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    options = parser.parse_args(arguments)
    if options.url:
        return _run(remote_values(options.url, os.environ), options)
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        print(
            "make truth: the real servers run in containers, and there is no Docker here.\n"
            "Ask a project instead: make truth URL=https://….supabase.co, with its keys in\n"
            "SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY and SUPABASE_JWT_SECRET."
        )
        return 3
    with _containers() as values:
        return _run(values, options)


def _run(values: Mapping[str, str], options: argparse.Namespace) -> int:
    place = Place(
        rest_url=f"{values['SUPABASE_URL']}/rest/v1",
        jwt_secret=values["SUPABASE_JWT_SECRET"],
        publishable_key=values["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=values["SUPABASE_SECRET_KEY"],
        schema=os.environ.get("MINUTEHAND_SCHEMA", "public"),
    )
    if options.write:
        record(place)
        print("recorded; `git diff infra/truth/recorded` shows what is new")
        return 0
    # what the others write would be in the answers
    parts = options.part or (PARTS if values.get("DATABASE_URL") else ("requests",))
    found = {part: _differing(part, place, values) for part in PARTS if part in parts}
    for part, lines in found.items():
        print(f"{part}: {'differs: ' + ', '.join(lines) if lines else 'nothing unexpected'}")
    return 1 if any(found.values()) else 0


def _differing(part: str, place: Place, values: Mapping[str, str]) -> list[str]:
    """What of a part differs and may not, each by its name."""
    if part == "requests":
        return _unlisted(compare(place))
    if part == "filters":
        return _filters(place, values["DATABASE_URL"])
    url = values["SUPABASE_URL"]
    values = {**values, **demo_values()}
    if part == "demo":
        owner = migrations.as_user(values["DATABASE_URL"], "postgres")
        for seed in seed_files():
            migrations.apply_seed(owner, seed)
        command = ["minutehand.local", "up", "--once", "--supabase-url", url, "--any-ports"]
        with tempfile.TemporaryDirectory() as state:
            return _ran([*command, "--state", state], values)
    command = ["pytest", "-q", "-n", "0"]
    return _ran([*command, *TESTS[part]], {**values, "TRUTH_URL": url})


def _unlisted(found: Sequence[Wrong]) -> list[str]:
    """Print what differs; the names of those that differ for no listed reason."""
    _print(found)
    unlisted = [each.name for each in found if reason_of(each.name) is None]
    print(f"{len(found)} answers differ, {len(unlisted)} of them for no listed reason")
    return unlisted


def _ran(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Pass on what a command prints; the tests or jobs that failed in it."""
    found: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **values, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            found += FAILURES.findall(line)
    return (found or ["see above"]) if running.returncode else []


def _filters(place: Place, database_url: str) -> list[str]:
    """Compare over two tables of its own, which it drops again."""

    def sql(statement: str, *args: Any) -> list[dict[str, Any]]:
        cursor = connection.execute(statement.encode(), args or None)
        return cursor.fetchall() if cursor.description else []

    found: list[Wrong] = []
    service = httpx.Client(base_url=place.rest_url, headers=place.headers("service"))
    owner = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
    with owner as connection, service as client:
        sql(filters.DROP + filters.TABLES)
        try:
            while client.get("/scratch_names").status_code == 404:
                time.sleep(0.2)  # until the Data API has read the schema again
            found = [*filters.wrong_answers(client, sql), *wrong_reads(client, sql)]
        finally:
            sql(filters.DROP)
    _print(found)
    return [each.name for each in found]


def _print(found: Sequence[Wrong]) -> None:
    for name, expected, given in found:
        why = reason_of(name) or "NOT LISTED"
        print(f"{name}: {why}\n  expected {expected}\n  given    {given}")


@contextmanager
def _containers() -> Iterator[dict[str, str]]:
    """A project of its own on this machine, migrated and with the demo's users."""
    with tempfile.TemporaryDirectory() as folder:
        cli = [str(supabase_cli()), "--workdir", folder]
        subprocess.run([*cli, "init", "--yes"], check=True, capture_output=True)
        for name, version in versions().items():
            Path(folder, "supabase", ".temp", f"{name}-version").write_text(version)
        try:
            subprocess.run([*cli, "start", "--exclude", LEFT_OUT], check=True)
            status = subprocess.check_output([*cli, "status", "-o", "json"])
            known: dict[str, str] = json.loads(status)
            owner = known["DB_URL"]
            apply_project(owner)
            # of the images' superuser: tests look where a project's owner may not
            known["DB_URL"] = owner.replace("//postgres:", "//supabase_admin:")
            create_demo_users(known["DB_URL"])
            for seed in seed_files():
                migrations.apply_seed(owner, seed)
            yield remote_values(known["API_URL"], known)
        finally:
            subprocess.run([*cli, "stop", "--no-backup"], check=False)


def versions() -> dict[str, str]:
    """The images' versions by the names that the CLI gives the parts."""
    found = re.findall(r"image: \S+/(\w+):(v\S+)", IMAGES.read_text())
    return {{"postgrest": "rest"}.get(name, name): version for name, version in found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
