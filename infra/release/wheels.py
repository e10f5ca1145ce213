"""`make dist` builds both wheels and the npm archive in `dist/`.

Building equal sources again gives archives with equal bytes.

For tests, this module also creates a virtual environment with the wheels and without the checkout.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from infra.release.migrations import empty_database, present_files, scratch
from infra.release.npm_archive import build_npm_archive
from infra.release.releases import read as read_releases
from infra.release.resources import CONSOLE, RECORD, SHIPPED
from infra.release.texts import parts_of
from minutehand.console import console_folder
from minutehand.install.catalog import record_file
from minutehand.local.database import apply_recorded
from minutehand.node import node_binary
from minutehand.version import VERSION
from supabase_local import migrations

ROOT = Path(__file__).resolve().parents[2]
#: Sources of the wheel, except the files that `infra.release.resources` adds.
SOURCES = (
    "shared",
    "supabase",
    "infra/release/resources.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


def checkout_copy(folder: Path) -> Path:
    """Copy the sources of a wheel into a folder, so that a test can change the copies."""
    ignore = shutil.ignore_patterns("__pycache__", ".temp")
    for part in (*SOURCES, *SHIPPED):
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return folder


def commit_instant() -> str:
    """Return the time of the last commit, in seconds since 1970.

    The files in an archive of the release get the returned time as their modification time.
    """
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "315532800"  # the earliest time that a zip can store


def build_wheels(source: Path, folder: Path) -> Path:
    """Build the wheels of minutehand and supabase-local in a folder.

    Equal sources give equal bytes.
    """
    from hatchling.builders.wheel import WheelBuilder  # a slow import

    os.environ[RECORD] = str(find_record(source))
    os.environ[CONSOLE] = str(console_folder())
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_instant())
    folder.mkdir(parents=True, exist_ok=True)
    local = source / "shared" / "supabase_local"
    # bundle the gateway with its npm packages
    program = ROOT / "infra" / "release" / "gateway.mjs"
    module, bundle = local / "gateway" / "server.mjs", local / "build" / "gateway"
    subprocess.run([node_binary(), program, module, bundle], check=True)
    for root in (source, local):
        list(WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"]))
    return folder


def find_record(source: Path) -> Path:
    """Return the path of the file that records a checkout's database objects.

    If the file of the record is missing, write it.
    """
    path = record_file(source)
    if not path.exists():
        with scratch() as server:
            url = empty_database(server, "present")
            owner = migrations.as_owner(url)
            parts = {part.name: present_files([part]) for part in parts_of(source)}
            apply_recorded(owner, parts, path)
    return path


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheels, and the dependencies of the tests' environment."""

    folder: Path

    @property
    def python(self) -> Path:
        """Path of the virtual environment's Python interpreter."""
        return self.folder / "bin" / "python"

    @property
    def cache(self) -> Path:
        """Cache folder for programs that run in the virtual environment."""
        return self.folder.with_name("cache")

    @classmethod
    def make(cls, folder: Path, wheels: Path) -> Self:
        """Create a virtual environment with the wheels of a folder, without downloads."""
        venv.create(folder, symlinks=True)
        environment = cls(folder)
        [packages] = folder.glob("lib/python*/site-packages")
        # link the packages of each environment in `sys.path`, because one environment may extend
        # another
        paths = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "dependencies.pth").write_text("\n".join(paths))
        install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--offline"]
        subprocess.run(
            [*install, "--python", environment.python, *wheels.glob("*.whl")], check=True
        )
        return environment

    def run(
        self,
        project: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        code: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a project's folder, without the checkout in Python's import path.

        Args:
            code: Expected exit code. If `code` is None, any exit code is accepted.
        """
        names = ("PATH", "HOME", "NODE_COMPILE_CACHE")
        inherited = {name: os.environ[name] for name in names if name in os.environ}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=project,
            env={**inherited, "XDG_CACHE_HOME": str(self.cache), **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert code in (None, done.returncode), f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def minutehand(self, project: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run the command `minutehand` in a project's folder, and return its JSON output."""
        done = self.run(project, "-m", "minutehand.cli", *arguments, "--json", code=code)
        output: dict[str, Any] = json.loads(done.stdout if code == 0 else done.stderr)
        return output


def main() -> None:
    """Build all archives, and print their names and SHA-256 hashes."""
    if VERSION not in read_releases():
        print(f"{VERSION} is not released, so this wheel cannot upgrade", file=sys.stderr)
    out = ROOT / "dist"
    build_wheels(ROOT, out)
    build_npm_archive(out)
    for path in sorted(out.iterdir()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")


if __name__ == "__main__":
    main()
