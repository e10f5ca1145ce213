"""`make dist`: the wheels, and the npm archive beside them, into `dist/`; the same bytes each time.

usage: python -m infra.release.wheel [--out dist]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

from infra.release.npm_archive import build_npm_archive

ROOT = Path(__file__).resolve().parents[2]


def commit_instant() -> str:
    """The seconds since 1970 of the last commit: what an archive says its files are of."""
    command = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "315532800"  # the earliest instant a zip can hold


def build_wheels(out: Path, *, root: Path = ROOT) -> list[Path]:
    """Build the wheels of the tree in `root` into `out`: the library's, then those in `shared`."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_instant())
    out.mkdir(parents=True, exist_ok=True)
    projects = [root, *sorted(file.parent for file in root.glob("shared/*/pyproject.toml"))]
    return [
        Path(made)
        for project in projects
        for made in WheelBuilder(str(project)).build(directory=str(out), versions=["standard"])
    ]


def main() -> int:
    """Build all, print their names and SHA-256."""
    parser = argparse.ArgumentParser(prog="python -m infra.release.wheel", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    build_wheels(out)
    build_npm_archive(out)
    for path in sorted(out.iterdir()):
        if path.suffix in {".whl", ".tgz"}:
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
