"""A user's npm project with the packed package, supabase-js and TypeScript."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from minutehand.deploy.build import find_tool
from minutehand.node import node_binary
from tests.support.paths import ROOT

#: The versions of React whose types are installed.
REACTS = ("18", "19")


def npm(folder: Path, *arguments: str) -> None:
    """Run a command of npm with this project's registry."""
    shutil.copy(ROOT / ".npmrc", folder)
    command = [find_tool("npm"), *arguments, "--prefer-offline", "--ignore-scripts"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@dataclass(frozen=True)
class Stranger:
    """An npm project in its own folder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, archive: Path, *more: str) -> Stranger:
        """Install the package, its dependencies, and further packages, each `name@version`."""
        ours = json.loads((ROOT / "package.json").read_text())["devDependencies"]
        names = ("@supabase/supabase-js", "typescript")
        package = {"name": "stranger", "private": True, "type": "module"}
        (folder / "package.json").write_text(json.dumps(package))
        npm(folder, "install", str(archive), *(f"{name}@{ours[name]}" for name in names), *more)
        return cls(folder)

    def node(self, script: str, *arguments: str) -> str:
        """Run a script of an installed package, and return its output and errors."""
        done = subprocess.run(
            [str(node_binary()), str(self.folder / "node_modules" / script), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    def compile(self, *files: str, types: str = "jobs.d.ts", react: str = REACTS[-1]) -> str:
        """Compile strictly and return the errors of tsc.

        tsc also checks all declarations, and those of its own library, to whose events the package
        adds its own. Errors in supabase-js and of the package `ai`, which is not installed, and
        the indented details of each error are left out.
        """
        folder = f"./node_modules/types-react-{react}"
        options = {
            "strict": True,
            "noUncheckedIndexedAccess": True,
            "exactOptionalPropertyTypes": True,
            "target": "es2022",
            "module": "nodenext",
            "lib": ["es2022", "dom", "dom.iterable"],
            "types": [],
            "jsx": "react-jsx",
            "outDir": "out",
            "paths": {
                "react": [f"{folder}/index.d.ts"],
                "react/jsx-runtime": [f"{folder}/jsx-runtime.d.ts"],
            },
        }
        (self.folder / "tsconfig.json").write_text(
            json.dumps({"compilerOptions": options, "files": [*files, types]})
        )
        result = self.node("typescript/bin/tsc").splitlines()
        others = (" ", "node_modules/@supabase/", "node_modules/minutehand/ai-sdk.d.ts")
        return "\n".join(line for line in result if not line.startswith(others))
