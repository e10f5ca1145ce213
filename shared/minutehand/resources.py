"""Folders of the files that are shipped with the package: engine, console, CloudFormation.

A wheel has them in `resources`, a checkout in its own folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent

Resource = Literal["schemas", "migrations", "record", "seed", "console", "cloudformation", "node"]

#: Folders of the checkout by folder of the wheel; pyproject.toml copies them.
IN_CHECKOUT: dict[Resource, str] = {
    "schemas": "supabase/schemas",
    "migrations": "supabase/migrations",
    "record": ".local/record",
    "seed": "supabase",
    "console": "infra/console",
    "cloudformation": "infra/aws",
    "node": ".",
}


def checkout() -> Path | None:
    """Return the checkout from which this package is imported; None for an installed wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "shared" and (root / "supabase").is_dir() else None


def resource(name: Resource) -> Path:
    """Return the folder of a resource; `node` has package.json and its lock, `seed` seed.sql."""
    root = checkout()
    return PACKAGE / "resources" / name if root is None else root / IN_CHECKOUT[name]
