"""`make dist`: the wheel, and the npm archive beside it, into `dist/`; the same bytes each time.

usage: python -m infra.release.wheel [--out dist]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from infra.release.npm_archive import build_npm_archive
from infra.release.wheels import ROOT, build_wheels


def main() -> int:
    """Build all, print their names and SHA-256."""
    parser = argparse.ArgumentParser(prog="python -m infra.release.wheel", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out: Path = parser.parse_args().out
    build_wheels(ROOT, out)
    build_npm_archive(out)
    for path in sorted(out.iterdir()):
        if path.suffix in {".whl", ".tgz"}:
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
