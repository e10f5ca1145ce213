"""Gives the SQL other schema names than the two it is written with.

The source says `public.` for what clients see and `queue.` for the engine; an install elsewhere
replaces these words where a schema is written, and reads nothing else of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: The names in the source.
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
    """Where clients see jobs; the engine is in a schema of its own beside it."""

    clients: str = CLIENTS

    @property
    def engine(self) -> str:
        """Where the engine keeps its own."""
        return ENGINE if self.clients == CLIENTS else f"{self.clients}_engine"


def rewrite(sql: str, schemas: Schemas) -> str:
    """Return `sql` with the schemas' names."""
    names = {CLIENTS: schemas.clients, ENGINE: schemas.engine}
    for pattern in _WRITTEN if schemas.clients != CLIENTS else ():
        sql = pattern.sub(lambda found: found["before"] + names[found["name"]], sql)
    return sql
