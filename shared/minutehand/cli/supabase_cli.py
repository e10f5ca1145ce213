"""The Supabase CLI as deploy uses it: pushes the schema to one project, named by its ref.

From 3.0 on `supabase db push` goes to the local stack unless `--remote` names a project; before, it
went to whatever the folder is linked to, and is refused here.
"""

from __future__ import annotations

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

#: https://<ref>.supabase.co; a ref is twenty lower-case letters.
HOSTED = re.compile(r"https://([a-z]{20})\.supabase\.(?:co|in|red)")
GUIDE = "https://supabase.com/docs/guides/cli"
INSTALL = f"install the Supabase CLI: npm install --global supabase, or {GUIDE}"
OLDEST = 3


def project_ref(values: Mapping[str, object]) -> str:
    """Return the ref of a stage's project: in its `supabaseUrl`, else its `supabaseProject`."""
    url = str(values["supabaseUrl"])
    if found := HOSTED.fullmatch(url):
        return found[1]
    if named := values.get("supabaseProject"):
        return str(named)
    raise CommandFailed(
        f"{url} does not show which Supabase project it belongs to",
        code="unknown_project",
        fix="a domain of your own needs `supabaseProject: <ref>` in the stage; where something "
        "else applies the migrations, deploy with --no-database",
    )


def how_to_migrate(url: str, stage: str | None = None) -> str:
    """Return the one line that applies pending migrations to the project at `url`."""
    if stage is not None:
        return f"minutehand deploy {stage}"
    if found := HOSTED.fullmatch(url.rstrip("/")):
        return f"supabase db push --remote={found[1]}"
    return "minutehand dev  # or, beside `supabase start`: supabase migration up"


def find_cli() -> Path:
    """Find a CLI of the search path that knows `--remote`."""
    program = shutil.which("supabase")
    if program is None:
        raise CommandFailed(
            "the Supabase CLI is not installed, and the schema goes before the functions",
            code="no_supabase_cli",
            fix=INSTALL,
        )
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.\d+\.\d+", said.stdout)
    if found is None or int(found[1]) < OLDEST:
        raise CommandFailed(
            f"{program} is version {said.stdout.strip() or 'unknown'}; 3.0 or newer is needed",
            code="old_supabase_cli",
            fix=INSTALL,
        )
    return Path(program)


def push(ref: str, project: Project) -> None:
    """Apply a project's pending migrations to the hosted project `ref`, and to no other.

    Signs in as the CLI does: SUPABASE_ACCESS_TOKEN or `supabase login`; the database's password
    from SUPABASE_DB_PASSWORD, or a temporary role.
    """
    with push_folder(project) as folder:
        done = subprocess.run(
            [find_cli(), "db", "push", f"--remote={ref}", "--yes", "--workdir", folder],
            cwd=folder,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
    if done.returncode:
        raise CommandFailed(
            f"supabase db push to project {ref} failed; see its output above",
            code="db_push_failed",
            fix="sign in with `supabase login` or SUPABASE_ACCESS_TOKEN",
        )


@contextmanager
def push_folder(project: Project) -> Iterator[Path]:
    """The folder to push from: a project's own; for a checkout a copy that has its apps' files."""
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
