"""Replaces the two schema names of the SQL sources by those of a project.

The sources use `public.` for the objects that clients see and `queue.` for the engine. Only these
words are replaced, and only as names of schemas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Schema names in the sources.
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
    """Schemas of a project: the one that clients see, and the engine's."""

    clients: str = CLIENTS

    @property
    def engine(self) -> str:
        """Schema of the engine."""
        return ENGINE if self.clients == CLIENTS else f"{self.clients}_engine"


def rewrite(sql: str, schemas: Schemas) -> str:
    """Replace the source's schema names in `sql`."""
    names = {CLIENTS: schemas.clients, ENGINE: schemas.engine}
    for pattern in _WRITTEN if schemas.clients != CLIENTS else ():
        sql = pattern.sub(lambda match: match["before"] + names[match["name"]], sql)
    return sql
