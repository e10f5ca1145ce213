"""Puts beside the modules of the wheel what `minutehand.resources` finds there.

A hook of the build, so that `pip install` of a checkout or of an address of git has it too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Folder or file in the checkout → where it goes; `resources.py` has the other way round.
TRAVELS = {
    "functions/README.md": "docs/http.md",
    "infra/aws/README.md": "docs/aws.md",
    "infra/console/README.md": "docs/browser.md",
    "infra/console/npm/README.md": "docs/npm.md",
    "infra/container/README.md": "docs/container.md",
    "infra/docs/index.md": "docs/index.md",
    "supabase/README.md": "docs/sql.md",
    "supabase/schemas": "schemas",
    "supabase/migrations": "migrations",
    "supabase/seed.sql": "seed/seed.sql",
    "infra/console": "console",
    "infra/aws": "cloudformation",
    "serverless.yml": "cloudformation/serverless.yml",
    "package.json": "node/package.json",
    "package-lock.json": "node/package-lock.json",
    ".npmrc": "node/.npmrc",
}
#: For people who read the checkout.
LEFT_OUT = frozenset({"screenshots", "README.md", "DECISIONS.md"})
#: Of a folder, what travels; the first release's files are in no upgrade.
ONLY = {"supabase/migrations": "*_minutehand_*.sql"}
#: Where `make dist` has put the record of what the engine leaves in a database.
RECORD = "MINUTEHAND_RECORD"


def resource_files(root: Path) -> dict[str, str]:
    """Every file that travels, by its path, with its place in the wheel."""
    found: dict[str, str] = {}
    for source, target in TRAVELS.items():
        whole = root / source
        files = sorted(whole.rglob(ONLY.get(source, "*"))) if whole.is_dir() else [whole]
        for file in files:
            inside = file.relative_to(whole)
            if file.is_file() and not LEFT_OUT & set(inside.parts):
                place = Path("minutehand", "resources", target, inside)
                found[str(file)] = place.as_posix()
    if record := os.environ.get(RECORD):
        found[record] = "minutehand/resources/record/facts.json"
    return found


class ResourcesHook(BuildHookInterface[Any]):
    """Adds the resources to the wheel; an editable install finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files before anything is built."""
        if version == "standard":
            build_data["force_include"].update(resource_files(Path(self.root)))
