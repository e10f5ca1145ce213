"""The npm package `minutehand`: the console's own modules, unchanged, into `dist/`.

package.json, README and the types are in infra/console/npm.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from minutehand.deploy.build import find_tool
from minutehand.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "infra" / "console" / "lib"
FACE = ROOT / "infra" / "console" / "npm"


class ArchiveError(Exception):
    """npm refused; the message ends with its words."""


def build_npm_archive(target: Path) -> Path:
    """Build the archive into the folder `target` and return its path.

    Needs npm, no network. The same sources give the same bytes.

    Raises:
        ArchiveError: npm did not pack.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stage_package(Path(folder))
        packed = _run(["npm", "pack", "--json", "--pack-destination", str(target)], Path(folder))
    name: str = json.loads(packed)[0]["filename"]
    return target / name


def stage_package(folder: Path) -> None:
    """Write the package's files into the empty `folder`."""
    faces = [SOURCES / name for name in ("jobs.js", "element.js", "uploads.js")]
    (folder / "jobs").mkdir()
    for path in (*faces, *sorted((SOURCES / "jobs").glob("*.js"))):
        shutil.copyfile(path, folder / path.relative_to(SOURCES))
    for path in (*sorted(FACE.glob("*.?s")), FACE / "README.md", ROOT / "LICENSE"):
        shutil.copyfile(path, folder / path.name)
    package = json.loads((FACE / "package.json").read_text("utf-8"))
    text = json.dumps({**package, "version": VERSION}, indent=2, ensure_ascii=False)
    (folder / "package.json").write_text(text + "\n", "utf-8")


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        [find_tool(command[0]), *command[1:]],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ArchiveError(f"{Path(command[0]).name} said\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Build the archive and print its path."""
    parser = argparse.ArgumentParser(description="Build the npm archive.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="the folder, dist/ if absent"
    )
    chosen = parser.parse_args(arguments)
    try:
        print(build_npm_archive(chosen.out.resolve()))
    except ArchiveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # no exit at success: `make dist` continues after it
    if failed := main():
        sys.exit(failed)
