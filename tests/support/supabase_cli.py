"""The real Supabase CLI, each major version that deploy supports, fetched from npm once."""

from __future__ import annotations

from pathlib import Path

from infra.release.compatibility import CACHE, CLI, SYSTEM, fetch

#: The newest of each major version.
VERSIONS = {2: "supabase@2.122.1", 3: CLI}


def supabase_program(major: int) -> Path:
    """The program; other test processes wait while one fetches it."""
    folder = CACHE / ("cli" if major == 3 else f"cli-{major}")
    return fetch(folder, VERSIONS[major]) / "@supabase" / f"cli-{SYSTEM}" / "bin" / "supabase"
