"""Typed calls of the app's SQL functions for the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue import FunctionStore, decode_object, reading
from minutehand_apps.training.models import Chunk, Loaded


class WorkerStore(FunctionStore):
    """SQL functions of the processors, called as `job_worker`. Every call may be repeated.

    Each raises LeaseLost and stores nothing if another attempt has taken over.
    """

    async def load(self, job_id: str, fence: int) -> Loaded:
        """Load the data for a leased job."""
        loaded: Loaded = await self._functions.call_held(
            "training_load", job_id, fence, parse=reading(Loaded)
        )
        return loaded

    async def load_chunks(self, job_id: str, fence: int) -> list[Chunk]:
        """Load the transcript's chunks, in order."""
        answer = await self._functions.call_held(
            "training_load_chunks", job_id, fence, parse=decode_object
        )
        return [Chunk.model_validate(each) for each in answer["chunks"]]

    async def store(
        self, job_id: str, fence: int, name: str, value: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store the result of a stage once, and return the stored result."""
        stored: dict[str, Any] = await self._functions.call_held(
            "training_store", job_id, fence, parse=decode_object, name=name, value=dict(value)
        )
        return stored

    async def store_chunk(self, job_id: str, fence: int, chunk: Chunk) -> None:
        """Store the transcript of a chunk, once."""
        sent = chunk.model_dump(mode="json")
        await self._functions.call_held("training_store_chunk", job_id, fence, chunk=sent)

    async def note_host(
        self, job_id: str, fence: int, *, upload: str | None, asset: str | None
    ) -> None:
        """Store the video host's ids of the upload and the video."""
        await self._functions.call_held(
            "training_note_host", job_id, fence, upload=upload, asset=asset
        )
