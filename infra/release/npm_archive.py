"""Builds the npm package `minutehand` in `dist/` from unchanged modules of the console.

package.json, the README and the types are in infra/console/npm.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from minutehand.deploy.build import find_tool
from minutehand.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "infra" / "console" / "lib"
FACE = ROOT / "infra" / "console" / "npm"


def build_npm_archive(target: Path) -> Path:
    """Build the archive in the folder `target`, and return the archive's path.

    A build needs npm, but no network. Equal sources give an archive with equal bytes.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stage_package(Path(folder))
        command = [find_tool("npm"), "pack", "--json", "--pack-destination", str(target.resolve())]
        packed = subprocess.check_output(command, cwd=folder)
    name: str = json.loads(packed)[0]["filename"]
    return target / name


def stage_package(folder: Path) -> None:
    """Write the files of the package into the empty folder `folder`."""
    entry_points = [SOURCES / name for name in ("jobs.js", "element.js")]
    (folder / "jobs").mkdir()
    for path in (*entry_points, *sorted((SOURCES / "jobs").glob("*.js"))):
        shutil.copyfile(path, folder / path.relative_to(SOURCES))
    for path in (*sorted(FACE.glob("*.?s")), FACE / "README.md", ROOT / "LICENSE"):
        shutil.copyfile(path, folder / path.name)
    package = json.loads((FACE / "package.json").read_text())
    text = json.dumps({**package, "version": VERSION}, indent=2, ensure_ascii=False)
    (folder / "package.json").write_text(text + "\n")
