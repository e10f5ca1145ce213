"""Adds the files that `minutehand.resources` finds to the wheel.

Hatchling runs this module as a build hook, so that a wheel that pip builds from a checkout or a git
address also contains the files.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Path in the wheel of each file or folder, by its path in the checkout. `minutehand/resources.py`
#: maps folders of the wheel to folders of the checkout.
SHIPPED = {
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
    "infra/aws": "cloudformation",
    "serverless.yml": "cloudformation/serverless.yml",
    "package.json": "node/package.json",
    "package-lock.json": "node/package-lock.json",
    ".npmrc": "node/.npmrc",
}
#: Names of files that the wheel does not contain, because only readers of the checkout need them.
EXCLUDED = frozenset({"README.md", "DECISIONS.md"})
#: Patterns of the file names that the wheel contains, by folder. No upgrade needs the migrations of
#: the first release, whose names do not match.
PATTERNS = {"supabase/migrations": "*_minutehand_*.sql"}
#: Environment variables with the paths of two results of `make dist`: the record of the engine's
#: database objects, and the bundled console. A wheel that pip builds, without `make dist`, contains
#: neither result.
RECORD = "MINUTEHAND_RECORD"
CONSOLE = "MINUTEHAND_BUNDLE"


def resource_files(root: Path) -> dict[str, str]:
    """Return the path in the wheel of each file to include, by the file's path in the checkout."""
    paths: dict[str, str] = {}
    for source, target in SHIPPED.items():
        top = root / source
        files = sorted(top.rglob(PATTERNS.get(source, "*"))) if top.is_dir() else [top]
        for file in files:
            relative = file.relative_to(top)
            if file.is_file() and not EXCLUDED & set(relative.parts):
                path_in_wheel = Path("minutehand", "resources", target, relative)
                paths[str(file)] = path_in_wheel.as_posix()
    if record := os.environ.get(RECORD):
        paths[record] = "minutehand/resources/record/facts.json"
    if console := os.environ.get(CONSOLE):
        paths[console] = "minutehand/resources/console"
    return paths


class ResourcesHook(BuildHookInterface[Any]):
    """Adds the files of `resource_files` to a built wheel, but not to an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files of `resource_files` to the wheel before the wheel is built."""
        if version == "standard":
            build_data["force_include"].update(resource_files(Path(self.root)))
