"""Finds and runs the Supabase CLI, by which `deploy` pushes migrations to a hosted project.

From version 3.0 on, `supabase db push` uses the local stack unless `--remote` names a project.
This module rejects older versions of the CLI, because these push to the project to which the folder
is linked.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from minutehand.local.migrations import history
from minutehand.project import Project
from minutehand.resources import checkout
from minutehand.terminal.connection import CommandFailed

#: Pattern of the address of a hosted project, which contains the project's ref.
HOSTED = re.compile(r"https://([a-z]{20})\.supabase\.(?:co|in|red)")
INSTALL = (
    "install the Supabase CLI: npm install --global supabase,"
    " or https://supabase.com/docs/guides/cli"
)
MIN_VERSION = 3


def project_ref(values: Mapping[str, object]) -> str:
    """Return the ref of a stage's Supabase project, from `supabaseUrl` or `supabaseProject`."""
    url = str(values["supabaseUrl"])
    if match := HOSTED.fullmatch(url):
        return match[1]
    if ref := values.get("supabaseProject"):
        return str(ref)
    raise CommandFailed(
        f"{url} does not show which Supabase project it belongs to",
        code="unknown_project",
        fix="with a custom domain, add `supabaseProject: <ref>` to the stage; if something "
        "else applies the migrations, deploy with --no-database",
    )


def migration_command(url: str, stage: str | None) -> str:
    """Return the command line that applies the pending migrations to the project at `url`."""
    if stage is not None:
        return f"minutehand deploy {stage}"
    if match := HOSTED.fullmatch(url.rstrip("/")):
        return f"supabase db push --remote={match[1]}"
    return "minutehand dev  # or, with `supabase start`: supabase migration up"


def find_cli() -> Path:
    """Find a Supabase CLI that has the option `--remote` in the search path."""
    program = shutil.which("supabase")
    if program is None:
        raise CommandFailed(
            "the Supabase CLI must be installed, because it pushes the migrations",
            code="no_supabase_cli",
            fix=INSTALL,
        )
    result = subprocess.run([program, "--version"], capture_output=True, text=True)
    match = re.search(r"(\d+)\.\d+\.\d+", result.stdout)
    if match is None or int(match[1]) < MIN_VERSION:
        raise CommandFailed(
            f"{program} must be version 3.0 or newer, and is {result.stdout.strip() or 'unknown'}",
            code="old_supabase_cli",
            fix=INSTALL,
        )
    return Path(program)


def push(ref: str, project: Project) -> None:
    """Apply a project's pending migrations to the hosted project `ref`.

    The Supabase CLI signs in with SUPABASE_ACCESS_TOKEN or `supabase login`, and connects with
    SUPABASE_DB_PASSWORD or a temporary role.
    """
    with push_folder(project) as folder:
        result = subprocess.run(
            [find_cli(), "db", "push", f"--remote={ref}", "--yes", "--workdir", folder],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
    if result.returncode:
        raise CommandFailed(
            f"supabase db push to project {ref} failed; see its output above",
            code="db_push_failed",
            fix="sign in with `supabase login` or SUPABASE_ACCESS_TOKEN",
        )


@contextmanager
def push_folder(project: Project) -> Iterator[Path]:
    """Yield a folder with the migrations for `db push`, which in a checkout is a copy."""
    if checkout() != project.root:
        yield project.root
        return
    with tempfile.TemporaryDirectory(prefix="minutehand-push-") as name:
        supabase = Path(name) / "supabase"
        (supabase / "migrations").mkdir(parents=True)
        shutil.copy(project.root / "supabase" / "config.toml", supabase)
        for migration in history(project):
            shutil.copy(migration, supabase / "migrations")
        yield Path(name)
