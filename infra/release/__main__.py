"""Makes a release by `python -m infra.release 0.4.0`.

The command writes a migration of the engine, and of webhooks if they changed. The migration
contains the differences between the last release and the current sources (`schemas/`), and the
steps that a person wrote (`steps/0.4.0.sql`). The command also adds the hash of each new file to
`supabase/RELEASES.json`. If a step is missing or a released file has changed, the command writes no
files.
"""

import argparse
import sys

from infra.release.changes import CannotRelease
from infra.release.releases import release
from minutehand.version import VERSION


def main() -> int:
    """Print the files of the release. If the release fails, print the reason and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help=f"the version to release, that of the source: {VERSION}")
    version = parser.parse_args().version
    if version != VERSION:
        print(f"version must be {VERSION}, as in shared/minutehand/version.py", file=sys.stderr)
        return 1
    try:
        paths = release(version)
    except CannotRelease as error:
        print(error, file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
