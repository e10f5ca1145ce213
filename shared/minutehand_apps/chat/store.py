"""Typed calls of the app's SQL functions for the worker."""

from __future__ import annotations

from typing import Any, Literal

from minutehand.queue import FunctionStore, reading
from minutehand_apps.chat.models import Loaded


class WorkerStore(FunctionStore):
    """SQL functions of the processor, called as `job_worker`. Every call may be repeated.

    Each raises LeaseLost and stores nothing if another attempt has taken over.
    """

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load the data for a leased job."""
        loaded: Loaded = await self._functions.call_held(
            "chat_load", job_id, fence, parse=reading(Loaded)
        )
        return loaded

    async def say(
        self,
        job_id: str,
        fence: int,
        kind: Literal["reply", "question", "info"],
        content: str,
        **fields: Any,
    ) -> None:
        """Post a message in the session, once per kind and name of a question.

        Args:
            fields: `question` {name, options, default, expires_at}, or `work` {type, title}.
        """
        arguments = {"type": kind, "content": content, **fields}
        await self._functions.call_held("chat_say", job_id, fence, **arguments)
