"""The app's SQL functions that the worker calls, as typed calls.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minutehand.queue.functions import FunctionStore
from minutehand_apps.chat.models import Item, Loaded, Posted, Written
from minutehand_apps.chat.sources import Passage


class WorkerStore(FunctionStore):
    """What the processors may do, as `job_worker`; every call may be repeated."""

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        return Loaded.model_validate(await self._functions.call_held("chat_load", job_id, fence))

    async def post(self, job_id: str, fence: int, written: Written) -> Posted:
        """Post what a job wrote, once per job.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was posted.
            QueueError: 404 conversation_not_found, it was deleted.
        """
        sent = written.model_dump(mode="json")
        return Posted.model_validate(
            await self._functions.call_held("chat_post", job_id, fence, **sent)
        )

    async def delegate(
        self, job_id: str, fence: int, items: Sequence[Item], written: Written
    ) -> Posted:
        """Begin background work and say so, once per job; nothing when there is no room for all.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was begun.
            QueueError: 404 conversation_not_found, it was deleted.
        """
        sent = written.model_dump(mode="json", exclude={"data"})
        sent["reasons"] = (written.data or {}).get("reasons", [])
        begun = [item.model_dump() for item in items]
        return Posted.model_validate(
            await self._functions.call_held("chat_delegate", job_id, fence, items=begun, **sent)
        )

    async def matching(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """The passages that have every word of a question, best first, by full-text search."""
        given = [{"title": each.source, "text": each.text} for each in passages]
        arguments = {"p_question": question, "p_passages": given}
        found = await self._functions.call("chat_matching", arguments, repeatable=True)
        return [passages[place] for place in found["places"]]

    async def note(self, job_id: str, fence: int, **note: Any) -> None:
        """Tell people something, once per name and job.

        Args:
            note: `type` (question or info), `content`, and of a question its `name`, `options`,
                `default` and `expires_seconds`.

        Raises:
            LeaseLost: Another attempt has taken over; nothing was said.
        """
        await self._functions.call_held("chat_note", job_id, fence, **note)

    async def guidance(self, job_id: str, fence: int) -> tuple[list[str], int]:
        """What people said to a job without being asked, in order, and how much work waits.

        Raises:
            LeaseLost: Another attempt has taken over.
        """
        told = await self._functions.call_held("chat_guidance", job_id, fence)
        return list(told["guidance"]), int(told["queued"])
