"""Why a stage did not finish, as the one exception that stages raise.

What becomes of it, another attempt or a failed stage, is processors.py's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

EMPTY_FILE: Final = "The file is empty"


class StageError(Exception):
    """A stage could not be done.

    Attributes:
        code: A stable word.
        reason: A sentence for people.
        later: Whether another attempt may do better.
        retry_after: How long to wait before it; None leaves it to the backoff.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        later: bool = False,
        retry_after: timedelta | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.later = later
        self.retry_after = retry_after
        super().__init__(reason)


def no_room(what: str) -> StageError:
    """The worker's disk is full; another worker, or a later attempt, may have room."""
    return StageError("no_room", f"The worker's disk has no room for {what}", later=True)
