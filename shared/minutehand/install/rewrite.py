"""Replaces the two schema names in the SQL sources by the schema names of a project.

The sources use `public.` for objects that clients see, and `queue.` for objects of the engine. The
words `public` and `queue` are replaced only where they name a schema.
"""

import re
from dataclasses import dataclass

#: Schema names in the SQL sources, for the objects of clients and of the engine.
CLIENTS, ENGINE = "public", "queue"
_NAME = "(?P<name>public|queue)"
_WRITTEN = tuple(
    map(
        re.compile,
        (
            rf'(?<![\w.$])(?P<before>"?){_NAME}(?=(?P=before)\.[a-zA-Z_%"])',
            rf"(?P<before>\bschema (?:if (?:not )?exists )?){_NAME}\b(?!\.)",
            rf"(?P<before>'){_NAME}(?='::regnamespace)",
            rf"(?P<before>\bto_regnamespace\('){_NAME}(?=')",
        ),
    )
)


@dataclass(frozen=True)
class Schemas:
    """Schema names of a project: the schema that clients see, and the schema of the engine."""

    clients: str = CLIENTS

    @property
    def engine(self) -> str:
        """Name of the schema with the engine's objects."""
        return ENGINE if self.clients == CLIENTS else f"{self.clients}_engine"


def rewrite(sql: str, schemas: Schemas) -> str:
    """Replace the schema names of the sources in `sql` by the project's schema names."""
    names = {CLIENTS: schemas.clients, ENGINE: schemas.engine}
    for pattern in _WRITTEN if schemas.clients != CLIENTS else ():
        sql = pattern.sub(lambda match: match["before"] + names[match["name"]], sql)
    return sql
