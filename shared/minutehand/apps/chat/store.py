"""The app's SQL functions as typed calls: the worker's functions, and those of members and guests.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from minutehand.apps.chat.models import Conversation, Item, Loaded, Outcome, Posted, Written
from minutehand.config import Settings
from minutehand.queue.functions import CallerFunctions, WorkerFunctions
from minutehand.queue.models import FeedPage


class WorkerStore:
    """What the processors may do, as `job_worker`; every call may be repeated."""

    def __init__(self, settings: Settings) -> None:
        self._functions = WorkerFunctions(settings)

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
        begun = [item.model_dump() for item in items]
        return Posted.model_validate(
            await self._functions.call_held("chat_delegate", job_id, fence, items=begun, **sent)
        )

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

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class SessionStore:
    """What may be done in a session by its id; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def request(self, session_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Say something, or find what the same `client_id` said.

        Raises:
            QueueError: 422 session_id_invalid, 404 session_not_found, 429 quota_exceeded.
        """
        return await self._call(
            "chat_request",
            session_id,
            p_request=dict(request),
            repeatable=request.get("client_id") is not None,
        )

    async def outcome(self, session_id: str, message_id: str) -> Outcome:
        """What became of a message."""
        told = await self._call("chat_outcome", session_id, p_message_id=message_id)
        return Outcome.model_validate(told)

    async def status(self, session_id: str) -> dict[str, Any]:
        """The state of a session's work; empty for an unknown session."""
        return await self._call("chat_status", session_id)

    async def works(self, session_id: str, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Which of these jobs are work of the session, by id."""
        told = await self._call("chat_works", session_id, p_job_ids=list(job_ids))
        found: dict[str, dict[str, Any]] = told["works"]
        return found

    async def events(self, session_id: str, cursor: str | None) -> FeedPage:
        """Events of a session's jobs after a cursor; none for a session that is unknown.

        Raises:
            QueueError: 400, the cursor is unknown.
        """
        told = await self._call("chat_events", session_id, p_cursor=cursor)
        return FeedPage.model_validate(told)

    async def news(self, guest_session_ids: Sequence[str]) -> dict[str, int]:
        """A mark for each of many guest sessions, which grows with each event."""
        told = await self._functions.call(
            "chat_news", {"p_guest_session_ids": list(guest_session_ids)}, repeatable=True
        )
        found: dict[str, int] = told["news"]
        return found

    async def cancel(self, session_id: str | None, work_id: str | None) -> dict[str, Any]:
        """Cancel a piece of work, or all of a session.

        Raises:
            QueueError: 404 for what is unknown, 409 invalid_state for what has ended.
        """
        return await self._call(
            "chat_cancel_work", session_id, p_work_id=work_id, p_all=work_id is None
        )

    async def notes(self, session_id: str, work_id: str | None, *, limit: int) -> dict[str, Any]:
        """Messages between work and people; returned ones count as read."""
        return await self._call(
            "chat_notes_of", session_id, p_work_id=work_id, p_limit=limit, repeatable=False
        )

    async def respond(
        self, session_id: str, *, message_id: str | None, work_id: str | None, content: str
    ) -> dict[str, Any]:
        """Answer a question, or guide live work.

        Raises:
            QueueError: 404 for what is unknown, 409 for a second answer or ended work.
        """
        return await self._call(
            "chat_respond",
            session_id,
            p_message_id=message_id,
            p_work_id=work_id,
            p_content=content,
            repeatable=False,
        )

    async def artefact(self, token: str) -> dict[str, Any]:
        """The file of a page, by its token.

        Raises:
            QueueError: 404 artefact_not_found.
        """
        return await self._functions.call("chat_artefact", {"p_token": token}, repeatable=True)

    async def _call(
        self, function: str, session_id: str | None, *, repeatable: bool = True, **arguments: Any
    ) -> dict[str, Any]:
        named = {"p_session_id": session_id, **arguments}
        return await self._functions.call(function, named, repeatable=repeatable)


class CallerStore:
    """What a member or a guest may do; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def open(
        self, workspace_id: UUID | None, title: str | None, *, key: str | None
    ) -> dict[str, Any]:
        """Begin a conversation, or find the one the key began."""
        return await self._functions.call(
            "chat_open",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_title": title,
                "p_idempotency_key": key,
            },
            repeatable=key is not None,
        )

    async def read(self, conversation_id: UUID | str) -> Conversation:
        """A conversation with its work.

        Raises:
            QueueError: 404 conversation_not_found, it is missing or not the caller's.
        """
        answer = await self._of("chat_read", conversation_id, {}, repeatable=True)
        return Conversation.model_validate(answer)

    async def conversations(
        self, workspace_id: UUID | None, *, before: tuple[str, str] | None, limit: int
    ) -> list[dict[str, Any]]:
        """Conversations, the one written in last first."""
        answer = await self._functions.call(
            "chat_list",
            {
                "p_workspace_id": str(workspace_id) if workspace_id else None,
                "p_before": {"at": before[0], "id": before[1]} if before else None,
                "p_limit": limit,
            },
            repeatable=True,
        )
        found: list[dict[str, Any]] = answer["conversations"]
        return found

    async def rename(self, conversation_id: UUID, title: str) -> None:
        """Call it something else."""
        await self._of("chat_rename", conversation_id, {"p_title": title}, repeatable=True)

    async def delete(self, conversation_id: UUID) -> None:
        """Delete it; its live work is cancelled."""
        await self._of("chat_delete", conversation_id, {}, repeatable=False)

    async def share(self, conversation_id: UUID, ttl_seconds: int) -> dict[str, Any]:
        """Open it to a guest, or find the guest session it is open to.

        Raises:
            QueueError: 403 forbidden, a manager has to.
        """
        arguments = {"p_ttl_seconds": ttl_seconds}
        return await self._of("chat_share", conversation_id, arguments, repeatable=True)

    async def unshare(self, conversation_id: UUID) -> None:
        """Close the guest session it is open to."""
        await self._of("chat_unshare", conversation_id, {}, repeatable=True)

    async def messages(
        self, conversation_id: UUID, *, before: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """The latest messages before that one, in order."""
        answer = await self._of(
            "chat_messages_before",
            conversation_id,
            {"p_before": before, "p_limit": limit},
            repeatable=True,
        )
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

    async def session_of(self, conversation_id: UUID) -> str:
        """The session its jobs belong to now; little to ask.

        Raises:
            QueueError: 404 conversation_not_found, it is missing or not the caller's.
        """
        arguments = {"p_before": None, "p_limit": 1}
        answer = await self._of("chat_messages_before", conversation_id, arguments, repeatable=True)
        session_id: str = answer["session_id"]
        return session_id

    async def send(self, conversation_id: UUID, message: Mapping[str, Any]) -> dict[str, Any]:
        """Say something, or find what the same `client_id` said."""
        repeatable = message.get("client_id") is not None
        return await self._of(
            "chat_send", conversation_id, {"p_message": dict(message)}, repeatable=repeatable
        )

    async def answer(
        self, conversation_id: UUID, job_id: UUID, answer: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Answer what a work item asks."""
        arguments = {"p_job_id": str(job_id), "p_answer": dict(answer)}
        return await self._of("chat_answer", conversation_id, arguments, repeatable=False)

    async def cancel(self, conversation_id: UUID, job_id: UUID) -> dict[str, Any]:
        """Stop a work item, or a reply."""
        arguments = {"p_job_id": str(job_id)}
        return await self._of("chat_cancel", conversation_id, arguments, repeatable=True)

    async def retry(self, conversation_id: UUID, job_id: UUID) -> dict[str, Any]:
        """Run a failed or cancelled work item or reply again."""
        arguments = {"p_job_id": str(job_id)}
        return await self._of("chat_retry", conversation_id, arguments, repeatable=False)

    async def _of(
        self,
        function: str,
        conversation_id: UUID | str,
        arguments: Mapping[str, Any],
        *,
        repeatable: bool,
    ) -> dict[str, Any]:
        named = {"p_conversation_id": str(conversation_id), **arguments}
        return await self._functions.call(function, named, repeatable=repeatable)
