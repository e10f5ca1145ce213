"""`make truth` compares the local stack with real servers of Supabase.

With a URL and keys, the comparison uses the servers of that Supabase project. The part `requests`
writes only a guest session and a row. The parts except `requests` need a Supabase project for
tests, which several runs may use, and DATABASE_URL of a superuser. Without a URL, the Supabase CLI
starts containers of the images in compose.yml, for which Docker must run. `--write` records the
responses of the real server.
"""

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
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from infra.release.supabase_cli import supabase_cli
from infra.truth import filters
from infra.truth.requests import CACHE_SECONDS, DataApi, Difference, compare, find_reason, record
from minutehand.local.database import apply_project, seed_files
from minutehand.local.environment import demo_values, remote_values
from minutehand.local.users import create_demo_users
from minutehand.resources import PACKAGE
from supabase_local import migrations

ROOT = PACKAGE.parents[1]
IMAGES = Path(__file__).with_name("compose.yml")
#: Services of Supabase that the comparison does not need, so that they are not started.
EXCLUDED = "storage-api,imgproxy,mailpit,postgres-meta,studio,edge-runtime,logflare,vector"
PROTOCOL = "tests/supabase_local/realtime"
#: Arguments of pytest for each part of the comparison that consists of tests.
TESTS: Mapping[str, Sequence[str]] = {
    "realtime": [PROTOCOL, f"--ignore={PROTOCOL}/test_restart.py"],
    # only tests of faults that a test can simulate although Realtime runs on another machine
    "clients": ["tests/e2e/live/test_words.py", "-k", "cut or renewed"],
}
PARTS = ("requests", "filters", "realtime", "clients", "demo")


def main(arguments: Sequence[str]) -> int:
    """Run the parts of the comparison.

    Return 3 if Docker is missing, 1 for an unlisted difference.
    """
    parser = argparse.ArgumentParser(prog="make truth", description=__doc__)
    parser.add_argument("--url", help="address of a project whose keys are in the environment")
    parser.add_argument("--write", action="store_true", help="record the responses instead")
    parser.add_argument("--part", action="append", choices=PARTS, help="run only this; repeatable")
    options = parser.parse_args(arguments)
    if options.url:
        return _run(remote_values(options.url, os.environ), options)
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        print(
            "make truth: the real servers run in containers, and Docker is not available.\n"
            "Use a project instead: make truth URL=https://….supabase.co, with its keys in\n"
            "SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY and SUPABASE_JWT_SECRET."
        )
        return 3
    with _containers() as values:
        return _run(values, options)


def _run(values: Mapping[str, str], options: argparse.Namespace) -> int:
    api = DataApi(
        rest_url=f"{values['SUPABASE_URL']}/rest/v1",
        jwt_secret=values["SUPABASE_JWT_SECRET"],
        publishable_key=values["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=values["SUPABASE_SECRET_KEY"],
        schema=os.environ.get("MINUTEHAND_SCHEMA", "public"),
    )
    if options.write:
        record(api)
        print("recorded; `git diff infra/truth/recorded` shows the changes")
        return 0
    # run `requests` first, because its responses would otherwise contain rows that other parts have
    # created
    parts = options.part or (PARTS if values.get("DATABASE_URL") else ("requests",))
    results = {part: _differences(part, api, values) for part in PARTS if part in parts}
    for part, names in results.items():
        print(f"{part}: {'differs: ' + ', '.join(names) if names else 'nothing unexpected'}")
    return 1 if any(results.values()) else 0


def _differences(part: str, api: DataApi, values: Mapping[str, str]) -> list[str]:
    """Run a part of the comparison, and return the names of the part's unexpected differences."""
    if part == "requests":
        return _unlisted(compare(api))
    if part == "filters":
        return _filters(api, values["DATABASE_URL"])
    url = values["SUPABASE_URL"]
    values = {**values, **demo_values()}
    if part == "demo":
        owner = migrations.as_owner(values["DATABASE_URL"])
        for seed in seed_files():
            migrations.apply_seed(owner, seed)
        command = ["minutehand.local", "--once", "--supabase-url", url, "--any-ports"]
        with tempfile.TemporaryDirectory() as state:
            return _run_command([*command, "--state", state], values)
    command = ["pytest", "-q", "-n", "0"]
    return _run_command([*command, *TESTS[part]], {**values, "TRUTH_URL": url})


def _unlisted(differences: Sequence[Difference]) -> list[str]:
    """Print all differences. Return the names of those without a reason in differences.json."""
    _print(differences)
    names = [entry.name for entry in differences if find_reason(entry.name) is None]
    print(f"{len(differences)} responses differ, {len(names)} of them for no listed reason")
    return names


def _run_command(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Run a command, whose output names the tests or jobs that failed."""
    environ = {**os.environ, **values}
    process = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environ)
    return ["see above"] if process.returncode else []


def _filters(api: DataApi, database_url: str) -> list[str]:
    """Compare the results of filters on two temporary tables."""

    def sql(statement: str, *args: Any) -> list[dict[str, Any]]:
        cursor = connection.execute(statement.encode(), args or None)
        return cursor.fetchall() if cursor.description else []

    differences: list[Difference] = []
    service = httpx.Client(base_url=api.rest_url, headers=api.headers("service"))
    owner = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
    with owner as connection, service as client:
        sql(filters.DROP + filters.TABLES)
        try:
            deadline = time.monotonic() + CACHE_SECONDS
            while time.monotonic() < deadline and any(
                client.get(f"/{table}").status_code == 404
                for table in ("scratch_names", "scratch_types")
            ):
                time.sleep(0.2)
            differences = [*filters.compare_filters(client, sql)]
        finally:
            sql(filters.DROP)
    _print(differences)
    return [entry.name for entry in differences]


def _print(differences: Sequence[Difference]) -> None:
    for name, expected, actual in differences:
        reason = find_reason(name) or "NOT LISTED"
        print(f"{name}: {reason}\n  expected {expected}\n  actual   {actual}")


@contextmanager
def _containers() -> Iterator[dict[str, str]]:
    """Run a new Supabase project in containers, with our migrations and the demo's users."""
    with tempfile.TemporaryDirectory() as folder:
        cli = [str(supabase_cli()), "--workdir", folder]
        subprocess.run([*cli, "init", "--yes"], check=True, capture_output=True)
        for name, version in versions().items():
            Path(folder, "supabase", ".temp", f"{name}-version").write_text(version)
        try:
            subprocess.run([*cli, "start", "--exclude", EXCLUDED], check=True)
            output = subprocess.check_output([*cli, "status", "-o", "json"])
            status: dict[str, str] = json.loads(output)
            owner = status["DB_URL"]
            apply_project(owner)
            # connect as the superuser, because tests read tables that the owner of a project must
            # not read
            status["DB_URL"] = owner.replace("//postgres:", "//supabase_admin:")
            create_demo_users(status["DB_URL"])
            for seed in seed_files():
                migrations.apply_seed(owner, seed)
            yield remote_values(status["API_URL"], status)
        finally:
            subprocess.run([*cli, "stop", "--no-backup"])


def versions() -> dict[str, str]:
    """Read the images' versions in compose.yml, by the Supabase CLI's names of its services."""
    images = re.findall(r"image: \S+/(\w+):(v\S+)", IMAGES.read_text())
    return {{"postgrest": "rest"}.get(name, name): version for name, version in images}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
