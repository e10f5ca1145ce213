"""A stranger's npm project: the packed archive, supabase-js and TypeScript, nothing of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from minutehand.deploy.build import find_tool
from minutehand.node import node_binary
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Stranger:
    """An npm project in a folder of its own."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, archive: Path, *more: str) -> Stranger:
        """Install the archive, what it stands on, and further packages, each `name@version`."""
        package = {"name": "stranger", "private": True, "type": "module"}
        (folder / "package.json").write_text(json.dumps(package))
        ours = json.loads((ROOT / "package.json").read_text("utf-8"))
        shutil.copyfile(ROOT / ".npmrc", folder / ".npmrc")
        subprocess.run(
            [
                find_tool("npm"), "install", "--prefer-offline", "--ignore-scripts",
                str(archive),
                f"@supabase/supabase-js@{ours['dependencies']['@supabase/supabase-js']}",
                f"typescript@{ours['devDependencies']['typescript']}", *more,
            ],
            cwd=folder, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return cls(folder)

    def node(self, script: str, *arguments: str) -> str:
        """Run a script of an installed package; returns what it prints, complaints too."""
        done = subprocess.run(
            [str(node_binary()), str(self.folder / "node_modules" / script), *arguments],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def compile(self, *files: str, types: str = "jobs.d.ts", unchecked: bool = True) -> str:
        """Compile strictly; returns what tsc complains about."""
        options = {
            "strict": True, "noUncheckedIndexedAccess": True, "exactOptionalPropertyTypes": True,
            "target": "es2022", "module": "nodenext", "lib": ["es2022", "dom"], "types": [],
            "jsx": "react-jsx", "skipLibCheck": unchecked, "outDir": "out",
        }  # fmt: skip
        (self.folder / "tsconfig.json").write_text(
            json.dumps({"compilerOptions": options, "files": [*files, types]})
        )
        return self.node("typescript/bin/tsc")
