"""Where the files lie that travel with the package: the engine, the console, CloudFormation.

A wheel holds them beside the modules; a checkout keeps them in the folders named after them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent

Resource = Literal["schemas", "migrations", "record", "seed", "console", "cloudformation", "node"]

#: Folder in the wheel → folder in the checkout; pyproject.toml copies the one to the other.
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
    """The repository that this package is imported from; None for an installed wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "shared" and (root / "supabase").is_dir() else None


def resource(name: Resource) -> Path:
    """The folder of `name`; `node` holds package.json and its lock, `seed` the seed.sql."""
    root = checkout()
    return PACKAGE / "resources" / name if root is None else root / IN_CHECKOUT[name]
