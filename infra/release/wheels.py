"""Wheels as they are published, and an environment that has one and nothing of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: What pyproject.toml puts into the wheel.
PARTS = (
    "shared", "supabase", "infra/console", "infra/aws", "package.json", "package-lock.json",
    ".npmrc", "CHANGELOG.md", "infra/release/resources.py", "pyproject.toml", "README.md",
    "LICENSE", "functions/README.md", "infra/container/README.md",
)  # fmt: skip


def checkout_copy(folder: Path, root: Path = ROOT) -> Path:
    """Copy what a wheel is made of, to change it."""
    for part in PARTS:
        source, target = root / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".temp"))
        else:
            shutil.copy(source, target)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build a wheel with the project's own backend."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel; its dependencies are those of the tests' own."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @classmethod
    def make(cls, folder: Path, wheel: Path) -> Environment:
        """Make one; no package is fetched."""
        venv.create(folder, symlinks=True)
        made = cls(folder)
        [packages] = folder.glob("lib/python*/site-packages")
        # all of them: an environment may stand on another's
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "dependencies.pth").write_text("\n".join(ours))
        made.pip("install", "--no-deps", "--offline", str(wheel))
        return made

    def pip(self, command: str, *arguments: str) -> None:
        """Install into it or uninstall from it, by uv."""
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", command, "-q", "--python", self.python, *arguments],
            check=True,
        )

    def run(
        self, project: Path, *arguments: str, env: dict[str, str] | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a project's folder, with nothing of the checkout in its path."""
        passed = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=project,
            env={**passed, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def minutehand(self, project: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run the command in a project's folder and read its JSON."""
        done = self.run(project, "-m", "minutehand.cli", *arguments, "--json", code=code)
        answer: dict[str, Any] = json.loads(done.stdout if code == 0 else done.stderr)
        return answer
