"""`make dist`: both wheels and the npm archive, into `dist/`; the same bytes each time.

And an environment that has the wheels and nothing of the checkout, for tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.release.migrations import empty_database, present_files, scratch
from infra.release.npm_archive import build_npm_archive
from infra.release.releases import read as read_releases
from infra.release.resources import RECORD, TRAVELS
from infra.release.texts import parts_of
from minutehand.install.catalog import record_file
from minutehand.local.database import apply_recorded
from minutehand.version import VERSION
from supabase_local import migrations

ROOT = Path(__file__).resolve().parents[2]
#: What the wheel is made of, beside what travels in its resources.
OWN = ("shared", "supabase", "infra/release/resources.py", "pyproject.toml", "README.md", "LICENSE")


def checkout_copy(folder: Path) -> Path:
    """Copy what a wheel is made of, to change it."""
    unwanted = shutil.ignore_patterns("__pycache__", ".temp")
    for part in (*OWN, *TRAVELS):
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=unwanted, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return folder


def commit_instant() -> str:
    """The seconds since 1970 of the last commit: what an archive says its files are of."""
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "315532800"  # the earliest instant a zip can hold


def build_wheels(source: Path, folder: Path) -> Path:
    """Build the wheels of both packages into a folder; the same bytes each time."""
    os.environ[RECORD] = str(record_of(source))
    for root in (source, source / "shared" / "supabase_local"):
        build_wheel(root, folder)
    return folder


def build_wheel(root: Path, folder: Path) -> None:
    """Build the wheel of the package whose pyproject.toml is in `root`."""
    from hatchling.builders.wheel import WheelBuilder  # slow, and needed here alone

    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_instant())
    folder.mkdir(parents=True, exist_ok=True)
    list(WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"]))


def record_of(source: Path) -> Path:
    """The record of what a checkout leaves in a database; made unless it is there."""
    path = record_file(source)
    if not path.exists():
        with scratch() as server:
            url = empty_database(server, "present")
            owner = migrations.as_user(url, "postgres")
            parts = {part.name: present_files([part]) for part in parts_of(source)}
            apply_recorded(owner, parts, path)
    return path


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheels; their dependencies are those of the tests' own."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def cache(self) -> Path:
        """The cache of what runs in it."""
        return self.folder.with_name("cache")

    @classmethod
    def make(cls, folder: Path, wheels: Path) -> Environment:
        """Make one with what is in the folder `wheels`; no package is fetched."""
        venv.create(folder, symlinks=True)
        made = cls(folder)
        [packages] = folder.glob("lib/python*/site-packages")
        # all of them: an environment may build on another's
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "dependencies.pth").write_text("\n".join(ours))
        made.pip("install", "--no-deps", "--offline", *map(str, wheels.glob("*.whl")))
        return made

    def pip(self, command: str, *arguments: str) -> None:
        """Install into it or uninstall from it, by uv."""
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", command, "-q", "--python", self.python, *arguments],
            check=True,
        )

    def run(
        self,
        project: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        code: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a project's folder, with nothing of the checkout in its path.

        Args:
            code: How it must end; None for any way.
        """
        known = ("PATH", "HOME", "NODE_COMPILE_CACHE")
        passed = {name: os.environ[name] for name in known if name in os.environ}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=project,
            env={**passed, "XDG_CACHE_HOME": str(self.cache), **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert code in (None, done.returncode), f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def minutehand(self, project: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run the command in a project's folder and read its JSON."""
        done = self.run(project, "-m", "minutehand.cli", *arguments, "--json", code=code)
        answer: dict[str, Any] = json.loads(done.stdout if code == 0 else done.stderr)
        return answer


def main() -> None:
    """Build all, print their names and SHA-256."""
    if VERSION not in read_releases():
        print(f"{VERSION} is not released: this wheel upgrades no project", file=sys.stderr)
    out = ROOT / "dist"
    build_wheels(ROOT, out)
    build_npm_archive(out)
    for path in sorted(out.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")


if __name__ == "__main__":
    main()
