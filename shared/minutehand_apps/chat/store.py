"""The app's SQL functions that the worker calls, as typed calls."""

from __future__ import annotations

from typing import Any, Literal

from minutehand.queue import FunctionStore, reading
from minutehand_apps.chat.models import Loaded


class WorkerStore(FunctionStore):
    """What the processor may do, as `job_worker`; every call may be repeated.

    Each raises LeaseLost when another attempt has taken over; nothing was said then.
    """

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on."""
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
        **more: Any,
    ) -> None:
        """Say something in the session, once per kind, and per name of a question.

        Args:
            more: `question` {name, options, default, expires_at}; `work` {type, title}, which the
                message becomes.
        """
        said = {"type": kind, "content": content, **more}
        await self._functions.call_held("chat_say", job_id, fence, **said)
