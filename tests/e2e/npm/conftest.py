"""A stranger's npm project: the packed archive, supabase-js and TypeScript, nothing of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.release.npm_archive import build_npm_archive
from minutehand.deploy.build import find_tool
from minutehand.local.parts import node_binary
from tests.support.paths import ROOT

COMPILER = ROOT / "node_modules" / "typescript"


@dataclass(frozen=True)
class Stranger:
    """An npm project in a folder of its own."""

    folder: Path

    def compile(self, *files: str, types: str = "jobs.d.ts", unchecked: bool = True) -> str:
        """Compile strictly; returns what tsc complains about."""
        options = {
            "strict": True, "noUncheckedIndexedAccess": True, "exactOptionalPropertyTypes": True,
            "target": "es2022", "module": "nodenext", "lib": ["es2022", "dom"], "types": [],
            "skipLibCheck": unchecked, "outDir": "out",
        }  # fmt: skip
        (self.folder / "tsconfig.json").write_text(
            json.dumps({"compilerOptions": options, "files": [*files, types]})
        )
        script = self.folder / "node_modules" / "typescript" / "bin" / "tsc"
        done = subprocess.run(
            [str(node_binary()), str(script)], cwd=self.folder,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as `make dist` builds it."""
    return build_npm_archive(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's files."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture(scope="session")
def stranger(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """An empty project into which the archive and what it stands on were installed."""
    folder = tmp_path_factory.mktemp("stranger")
    package = {"name": "stranger", "private": True, "type": "module"}
    (folder / "package.json").write_text(json.dumps(package))
    ours = json.loads((ROOT / "package.json").read_text("utf-8"))
    shutil.copyfile(ROOT / ".npmrc", folder / ".npmrc")
    subprocess.run(
        [
            find_tool("npm"), "install", "--prefer-offline", "--ignore-scripts",
            str(archive),
            f"@supabase/supabase-js@{ours['dependencies']['@supabase/supabase-js']}",
            f"typescript@{ours['devDependencies']['typescript']}",
        ],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return Stranger(folder)
