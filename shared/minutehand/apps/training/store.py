"""The app's SQL functions as typed calls: the worker's functions, and those of members.

What is allowed, and what is one transaction, is decided in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from minutehand.apps.training.models import Chunk, Loaded, Procedure, Stage
from minutehand.config import Settings
from minutehand.queue.functions import CallerFunctions, WorkerFunctions


class WorkerStore:
    """What the processors may do, as `job_worker`; every call may be repeated.

    Each raises LeaseLost when another attempt has taken over; nothing was stored then.
    """

    def __init__(self, settings: Settings) -> None:
        self._functions = WorkerFunctions(settings)

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load what a leased job works on."""
        return Loaded.model_validate(
            await self._functions.call_held("training_load", job_id, fence)
        )

    async def load_chunks(self, job_id: str, fence: int) -> list[Chunk]:
        """Load the transcript's chunks, in order."""
        answer = await self._functions.call_held("training_load_chunks", job_id, fence)
        return [Chunk.model_validate(each) for each in answer["chunks"]]

    async def store_stage(self, job_id: str, fence: int, stage: Stage) -> Stage:
        """Store what a stage came to; answers the completed one that was there before, if any."""
        sent = stage.model_dump(mode="json", exclude={"run", "finished_at"})
        answer = await self._functions.call_held("training_store_stage", job_id, fence, stage=sent)
        return Stage.model_validate(answer)

    async def store_chunk(self, job_id: str, fence: int, chunk: Chunk) -> Chunk:
        """Store the transcript of a chunk; return the one stored before, if any."""
        sent = chunk.model_dump(mode="json")
        answer = await self._functions.call_held("training_store_chunk", job_id, fence, chunk=sent)
        return Chunk.model_validate(answer)

    async def store_procedure(
        self, job_id: str, fence: int, procedure: Procedure, *, author: str, offline: bool
    ) -> None:
        """Store a generated procedure, unless there is one."""
        await self._functions.call_held(
            "training_store_procedure",
            job_id,
            fence,
            procedure=procedure.model_dump(mode="json"),
            author=author[:200],
            offline=offline,
        )

    async def note_host(
        self, job_id: str, fence: int, *, upload: str | None, asset: str | None
    ) -> None:
        """Record the video host's id of the video."""
        await self._functions.call_held(
            "training_note_host", job_id, fence, upload=upload, asset=asset
        )

    async def host_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Take a webhook of the video host, whose signature was checked; may be repeated."""
        answer: dict[str, Any] = await self._functions.call(
            "training_host_event", {"p_request": dict(event)}
        )
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()


class MemberStore:
    """What a member may do; one per request, cheap to make."""

    def __init__(self, functions: CallerFunctions) -> None:
        self._functions = functions

    async def start(
        self,
        workspace_id: UUID,
        title: str,
        object_key: str,
        size_bytes: int,
        *,
        training_id: str | None = None,
        checksum: str | None = None,
    ) -> dict[str, Any]:
        """Have an uploaded video worked on, or find the training that it has."""
        return await self._call(
            "training_start",
            {
                "p_workspace_id": str(workspace_id),
                "p_title": title,
                "p_object_key": object_key,
                "p_size_bytes": size_bytes,
                "p_training_id": training_id,
                "p_checksum": checksum,
            },
        )

    async def transcribe(
        self, workspace_id: UUID, training_id: UUID, title: str, audio_url: str
    ) -> dict[str, Any]:
        """Have a recording transcribed, or find the transcription that it has."""
        return await self._call(
            "training_transcribe",
            {
                "p_workspace_id": str(workspace_id),
                "p_training_id": str(training_id),
                "p_title": title,
                "p_audio_url": audio_url,
            },
        )

    async def find_by_object(self, object_key: str) -> dict[str, Any] | None:
        """The training of an uploaded file; None when it has none."""
        rows = await self._functions.select(
            "trainings", ("select", "id"), ("object_key", f"eq.{object_key}")
        )
        return await self.read(rows[0]["id"]) if rows else None

    async def workspaces(self) -> list[UUID]:
        """The caller's workspaces, up to two: whether there is a choice."""
        rows = await self._functions.select("workspaces", ("select", "id"), ("limit", "2"))
        return [UUID(row["id"]) for row in rows]

    async def stuck_jobs(self, workspace_id: UUID, *, minutes: int) -> dict[str, Any]:
        """Jobs that have been due for long and were not started."""
        return await self._call(
            "training_stuck_jobs", {"p_workspace_id": str(workspace_id), "p_minutes": minutes}
        )

    async def read(self, training_id: UUID | str) -> dict[str, Any]:
        """A training with its stages and jobs."""
        return await self._call("training_read", {"p_training_id": str(training_id)})

    async def list(
        self, workspace_id: UUID, *, after: UUID | None, limit: int
    ) -> list[dict[str, Any]]:
        """Trainings, newest first."""
        answer = await self._call(
            "training_list",
            {
                "p_workspace_id": str(workspace_id),
                "p_after": str(after) if after else None,
                "p_limit": limit,
            },
        )
        trainings: list[dict[str, Any]] = answer["trainings"]
        return trainings

    async def transcript(self, training_id: UUID) -> dict[str, Any]:
        """The transcript so far."""
        return await self._call("training_transcript", {"p_training_id": str(training_id)})

    async def procedure(self, training_id: UUID, version: int | None) -> dict[str, Any]:
        """A version of the procedure; the latest for None."""
        return await self._call(
            "training_procedure", {"p_training_id": str(training_id), "p_version": version}
        )

    async def save_procedure(
        self, training_id: UUID, base_version: int, procedure: Mapping[str, Any]
    ) -> int:
        """Store an edited procedure; its version."""
        answer = await self._call(
            "training_save_procedure",
            {
                "p_training_id": str(training_id),
                "p_base_version": base_version,
                "p_procedure": dict(procedure),
            },
            repeatable=False,
        )
        version: int = answer["version"]
        return version

    async def video(self, training_id: UUID) -> dict[str, Any]:
        """Where the video lies."""
        return await self._call("training_video", {"p_training_id": str(training_id)})

    async def cancel(self, training_id: UUID) -> dict[str, Any]:
        """Stop the work; what there is stays."""
        return await self._call("training_cancel", {"p_training_id": str(training_id)})

    async def retry(self, training_id: UUID) -> dict[str, Any]:
        """Go on behind the last finished stage."""
        return await self._call(
            "training_retry", {"p_training_id": str(training_id)}, repeatable=False
        )

    async def delete(self, training_id: UUID) -> dict[str, Any]:
        """Delete a training with all it made."""
        return await self._call(
            "training_delete", {"p_training_id": str(training_id)}, repeatable=False
        )

    async def _call(
        self, function: str, arguments: Mapping[str, Any], *, repeatable: bool = True
    ) -> dict[str, Any]:
        return await self._functions.call(function, arguments, repeatable=repeatable)
