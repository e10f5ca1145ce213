"""The real Supabase CLI, each major version that deploy supports, fetched from npm once."""

from __future__ import annotations

import fcntl
from pathlib import Path

from infra.release.compatibility import CACHE, CLI, SYSTEM, fetch

#: The newest of each major version.
VERSIONS = {2: "supabase@2.122.1", 3: CLI}


def supabase_program(major: int) -> Path:
    """The program; other test processes wait while one fetches it."""
    folder = CACHE / ("cli" if major == 3 else f"cli-{major}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        modules = fetch(folder, VERSIONS[major])
    return modules / "@supabase" / f"cli-{SYSTEM}" / "bin" / "supabase"
