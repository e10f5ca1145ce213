"""The Supabase CLI as deploy uses it: pushes the schema to one project, named by its ref.

From 3.0 on `supabase db push` goes to the local stack unless `--remote` names a project; before, it
goes to the project the folder is linked to. Both are checked here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minutehand.project import Project
from minutehand.resources import checkout
from minutehand.terminal.connection import CommandFailed

#: https://<ref>.supabase.co; a ref is twenty lower-case letters.
HOSTED = re.compile(r"https://([a-z]{20})\.supabase\.(?:co|in|red)")
INSTALL = "install the Supabase CLI: npm install --global supabase, or https://supabase.com/docs/guides/cli"
OLDEST = 2
#: From this version on the target of a command is `--remote=<ref>`.
REMOTE = 3
#: Where `supabase link` keeps the linked project's ref, below the project's `supabase` folder.
LINKED = Path(".temp", "project-ref")


def project_ref(url: str, named: str = "") -> str:
    """Return the ref of the project behind a stage's `supabaseUrl`.

    Args:
        url: `https://<ref>.supabase.co`, or a domain of one's own in front of it.
        named: The stage's `supabaseProject`; needed for a domain of one's own.
    """
    if found := HOSTED.fullmatch(url):
        return found[1]
    if named:
        return named
    raise CommandFailed(
        f"{url} does not show which Supabase project it belongs to",
        code="unknown_project",
        fix="a domain of your own needs `supabaseProject: <ref>` in the stage; where something "
        "else applies the migrations, deploy with --no-database",
    )


def how_to_migrate(url: str, stage: str | None = None) -> str:
    """Return the one line that applies pending migrations to the project at `url`.

    A plain `supabase db push` is never it: its target differs between versions of the CLI.
    """
    if stage is not None:
        return f"minutehand deploy {stage}"
    if found := HOSTED.fullmatch(url.rstrip("/")):
        return f"supabase db push --remote={found[1]}"
    return "start `minutehand dev` again, or beside `supabase start`: supabase migration up"


@dataclass(frozen=True)
class SupabaseCli:
    """An installed CLI and its version."""

    program: Path
    version: tuple[int, int, int]

    @classmethod
    def find(cls, path: str | None = None) -> SupabaseCli:
        """Find the CLI on the search path."""
        program = shutil.which("supabase", path=path)
        if program is None:
            raise CommandFailed(
                "the Supabase CLI is not installed, and the schema goes before the functions",
                code="no_supabase_cli",
                fix=INSTALL,
            )
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"(\d+)\.(\d+)\.(\d+)", said.stdout)
        version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
        if version[0] < OLDEST:
            raise CommandFailed(
                f"{program} is version {said.stdout.strip() or 'unknown'}; 2.0 or newer is needed",
                code="old_supabase_cli",
                fix=INSTALL,
            )
        return cls(Path(program), (version[0], version[1], version[2]))

    def check(self, root: Path, ref: str) -> None:
        """CLI 2 pushes to the linked project: it must be the stage's."""
        file = root / "supabase" / LINKED
        linked = file.read_text("utf-8").strip() if file.is_file() else "no project"
        if self.version[0] < REMOTE and linked != ref:
            raise CommandFailed(
                f"this folder is linked to {linked}, the stage is project {ref}",
                code="linked_elsewhere",
                fix=f"supabase link --project-ref {ref}; version 3 of the CLI needs no link",
            )

    def push(self, ref: str, project: Project) -> None:
        """Apply a project's pending migrations to the hosted project `ref`, and to no other.

        Signs in as the CLI does: SUPABASE_ACCESS_TOKEN or `supabase login`; the database's
        password from SUPABASE_DB_PASSWORD, or a temporary role.
        """
        self.check(project.root, ref)
        with push_folder(project) as folder:
            target = [f"--remote={ref}"] if self.version[0] >= REMOTE else ["--linked"]
            done = subprocess.run(
                [self.program, "db", "push", *target, "--yes", "--workdir", folder],
                cwd=folder,
                # one left in the shell would win over the link
                env={**os.environ, "SUPABASE_PROJECT_ID": ref},
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
    from minutehand.local.migrations import find_migrations  # of the extra `dev`, as a checkout has

    with tempfile.TemporaryDirectory(prefix="minutehand-push-") as name:
        folder = Path(name)
        supabase = folder / "supabase"
        (supabase / "migrations").mkdir(parents=True)
        shutil.copy(project.root / "supabase" / "config.toml", supabase)
        if (link := project.root / "supabase" / ".temp").is_dir():
            shutil.copytree(link, supabase / ".temp")
        for migration in find_migrations(project):
            shutil.copy(migration.path, supabase / "migrations")
        yield folder
