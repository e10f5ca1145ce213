"""The migrations on every Postgres they promise, by every way in: `make compatibility`.

On 15, 16, 17 and 18: from empty by our runner, from empty by the Supabase CLI's `db push`, and from
the last release. Each must end in the same catalogue, and the engine's tests pass. Servers and
CLI come from npm.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg

from infra.release.catalogue import catalogue, differences
from infra.release.supabase_cli import SYSTEM, fetch, push, supabase_cli
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.project import Project
from minutehand.resources import PACKAGE

ROOT: Final = PACKAGE.parents[1]
SERVERS: Final = {
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}


class Incompatible(Exception):
    """Two ways ended in different catalogues."""


def main(arguments: Sequence[str]) -> int:
    """Print a line per version; 1 when any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="*", type=int, default=sorted(SERVERS))
    versions: list[int] = parser.parse_args(arguments).versions
    release, known = last_release(), list[str]()
    with tempfile.TemporaryDirectory(prefix="minutehand-compatibility-") as name:
        project = copy_migrations(Path(name), release)
        for version in versions:
            binaries = fetch_server(version)
            postgres = Postgres(Path(name, str(version)), scratch=True, binaries=binaries)
            postgres.start()
            try:
                found = without_qualifiers(try_every_way(postgres, project))
                expect_equal(f"Postgres {version}", known or found, found)
            finally:
                postgres.destroy()
            known = found
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/sql"],
                check=True,
                cwd=ROOT,
                env={**os.environ, "POSTGRES_BINARIES": str(binaries)},
            )
            before = f"from {release}" if release else "(no release yet)"
            print(f"Postgres {version}: from empty, by db push, {before}: the same", flush=True)
    return 0


def fetch_server(version: int) -> Path:
    """Fetch a version's server; return the folder of its programs."""
    package = f"@embedded-postgres/{SYSTEM}"
    modules = fetch(str(version), f"{package}@{SERVERS[version]}")
    return modules / package / "native" / "bin"


def last_release() -> str | None:
    """Name the newest tag that git knows; None before the first."""
    command = ["git", "describe", "--tags", "--abbrev=0"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None if found.returncode == 0 else None


def copy_migrations(folder: Path, release: str | None) -> Path:
    """Copy the migrations of today, and the release's into `released`; return today's project.

    The CLI leaves files beside the migrations, and a checkout may change meanwhile.
    """
    if release is not None:
        paths = ["supabase/migrations", "shared/minutehand_apps"]
        archive = subprocess.check_output(["git", "archive", release, *paths], cwd=ROOT)
        (folder / "released").mkdir()
        subprocess.run(["tar", "-x", "-C", folder / "released"], input=archive, check=True)
    shutil.copytree(ROOT / "supabase", folder / "project" / "supabase")
    for migration in migrations.find_migrations(Project.at(ROOT)):
        shutil.copy(migration.path, folder / "project" / "supabase" / "migrations")
    return folder / "project"


def try_every_way(postgres: Postgres, project: Path) -> list[str]:
    """Fill a database by each way; return the catalogue on which they agree."""
    files = migrations.migrations_in(project / "supabase" / "migrations")
    fresh = make_empty(postgres, "fresh")
    apply(fresh, files)
    expected = catalogue(fresh)
    if (released := project.parent / "released").exists():
        upgraded = make_empty(postgres, "upgraded")
        apps = released.glob("shared/minutehand_apps/*/migrations")
        apply(upgraded, migrations.migrations_in(released / "supabase" / "migrations", *apps))
        apply(upgraded, files)
        expect_equal("from the last release", expected, catalogue(upgraded))
    pushed = make_empty(postgres, "pushed")
    owners = [postgres.url(database=name, user="postgres") for name in ("pushed", "fresh")]
    push(supabase_cli(), project, owners[0])
    expect_equal("by supabase db push", expected, catalogue(pushed))
    for owner in owners:
        if "up to date" not in (said := push(supabase_cli(), project, owner)):
            raise Incompatible(f"supabase db push has something to do: {said}")
    return expected


def make_empty(postgres: Postgres, name: str) -> str:
    """Make a database as a hosted project is before its first migration; return its URL."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = postgres.url(database=name)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, postgres.password)
    return url


def apply(url: str, wanted: Sequence[migrations.Migration]) -> None:
    """Bring a database up to date by our own runner."""
    migrations.apply_migrations(migrations.as_user(url, "postgres"), wanted)


def expect_equal(way: str, left: list[str], right: list[str]) -> None:
    """Refuse two catalogues that differ.

    Raises:
        Incompatible: Naming the first differences.
    """
    if found := differences(left, right):
        shown = "\n".join(line[:300] for line in found[:10])
        raise Incompatible(f"{way}: {len(found)} differences\n{shown}")


def without_qualifiers(lines: list[str]) -> list[str]:
    """Drop `jobs.` from `jobs.id` in views, which versions before 16 print even of a lone table."""
    return [re.sub(r"\b\w+\.", "", line) if line.startswith("view") else line for line in lines]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Incompatible, migrations.MigrationFailed) as error:
        sys.exit(str(error))
