"""Lists the objects of a database as sorted statements, to compare databases."""

from __future__ import annotations

import psycopg

from minutehand.install.catalog import CatalogFact, read_facts
from minutehand.install.rewrite import Schemas


def facts_of(url: str, schemas: Schemas = Schemas()) -> list[CatalogFact]:  # noqa: B008 - frozen
    """Read the objects of the clients' and the engine's schema, and the rows of a new install."""
    with psycopg.connect(url, autocommit=True) as connection:
        return read_facts(connection, schemas)


def catalogue(url: str, schemas: Schemas = Schemas()) -> list[str]:  # noqa: B008 - frozen
    """List the statements that create the objects. Equal lists mean equal schemas."""
    return sorted(fact.statement for fact in facts_of(url, schemas))


def differences(left: list[str], right: list[str]) -> list[str]:
    """List the lines of only one of two catalogues, with `-` for the left and `+` for the right."""
    return sorted(
        [f"- {line}" for line in set(left) - set(right)]
        + [f"+ {line}" for line in set(right) - set(left)],
        key=lambda line: line[2:],
    )
