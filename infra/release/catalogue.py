"""Lists the objects of a database as sorted SQL statements, so that databases can be compared."""

import psycopg

from minutehand.install.catalog import CatalogEntry, read_catalog
from minutehand.install.rewrite import Schemas


def read_entries(url: str, schemas: Schemas = Schemas()) -> list[CatalogEntry]:  # noqa: B008 - frozen
    """Read the objects in the schemas of clients and engine, and the rows of a new install."""
    with psycopg.connect(url, autocommit=True) as connection:
        return read_catalog(connection, schemas)


def catalogue(url: str, schemas: Schemas = Schemas()) -> list[str]:  # noqa: B008 - frozen
    """List the statements that create all objects.

    Databases have equal schemas if their lists of statements are equal.
    """
    return sorted(entry.statement for entry in read_entries(url, schemas))


def differences(left: list[str], right: list[str]) -> list[str]:
    """List lines that only one catalogue has, marked `-` for the left or `+` for the right one."""
    return sorted(
        [f"- {line}" for line in set(left) - set(right)]
        + [f"+ {line}" for line in set(right) - set(left)],
        key=lambda line: line[2:],
    )
