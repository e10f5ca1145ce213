"""Folders of files that are shipped with the package: engine, console, CloudFormation.

A wheel contains these folders in `resources`, and a checkout in other places.
"""

from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent

Resource = Literal["schemas", "migrations", "record", "seed", "console", "cloudformation", "node"]

#: Path of each folder in the checkout, by its name in the wheel. pyproject.toml copies the folders.
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
    """Return the checkout that contains this package. Return None for an installed wheel."""
    root = PACKAGE.parents[1]
    return root if PACKAGE.parent.name == "shared" and (root / "supabase").is_dir() else None


def resource(name: Resource) -> Path:
    """Return the folder of a resource.

    `node` contains package.json with its lock, `seed` seed.sql.
    """
    root = checkout()
    return PACKAGE / "resources" / name if root is None else root / IN_CHECKOUT[name]
