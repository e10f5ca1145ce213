"""Make a release: `python -m infra.release 0.4.0`.

Writes the migration of the engine, and of webhooks where it changed, from what differs between
the last release and the present text (`schemas/`), with the steps that a person wrote for it
(`steps/0.4.0.sql`); then adds every file's hash to `supabase/RELEASES.json`. Refuses, and writes
nothing, where a step is missing or a released file has changed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from infra.release.changes import CannotRelease
from infra.release.releases import release
from minutehand.version import VERSION


def main() -> int:
    """Print what was written, or what prevents the release; 1 then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help=f"the version to release, that of the source: {VERSION}")
    version = parser.parse_args().version
    if version != VERSION:
        print(f"shared/minutehand/version.py says {VERSION}", file=sys.stderr)
        return 1
    try:
        written = release(version, now=datetime.now(UTC))
    except CannotRelease as refused:
        print(refused, file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
