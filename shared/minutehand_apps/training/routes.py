"""The app's routes for trainings, which the `jobs` function finds.

The routes for uploads are in `uploads.py`. Reads use row level security. Everything else calls a
SQL function with the caller's token.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from minutehand.queue import ProcessorError
from minutehand.web import ApiError, Body, Provided, Services, SignedIn, not_found
from minutehand_apps.training.bucket import KEY, URL_SECONDS, sound_prefix
from minutehand_apps.training.models import (
    Share,
    Shared,
    StoredProcedure,
    TrainingPage,
    TrainingState,
    TranscriptState,
    Video,
)
from minutehand_apps.training.page import render
from minutehand_apps.training.services import Training
from minutehand_apps.training.uploads import UploadRoutes, storage


class NewTranscription(Body):
    """Request to transcribe a recording."""

    user_id: UUID = Field(description="The caller.")
    company_id: UUID = Field(description="The workspace of the training.")
    audio_url: Annotated[
        str, Field(min_length=1, max_length=2000, description="`key` of an upload of the caller.")
    ]
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")] | None = None


class StartedTranscription(BaseModel):
    """The job that transcribes a recording."""

    job_id: UUID
    training_id: UUID


class TrainingRoutes:
    """The routes below `/api/trainings`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("", self.list_trainings, methods=["GET"])
        add("/{training_id}", self.get_training, methods=["GET"])
        add("/{training_id}", self.delete_training, methods=["DELETE"], status_code=204)
        add("/{training_id}/transcription", self.transcribe, methods=["POST"], status_code=201)
        add("/{training_id}/transcript", self.get_transcript, methods=["GET"])
        add("/{training_id}/video", self.get_video, methods=["GET"])
        add("/{training_id}/cancel", self.cancel, methods=["POST"])
        add("/{training_id}/retry", self.retry, methods=["POST"])
        add("/{training_id}/share", self.share, methods=["PUT"])
        add("/shared/{share_id}", self.shared, methods=["GET"], response_class=HTMLResponse)

    async def list_trainings(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        after: Annotated[UUID | None, Query(description="`next` of the previous page.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> TrainingPage:
        """List the trainings of a workspace with their jobs and percentages, newest first."""
        functions = self._app.acting_as(caller.token)
        await functions.workspace(workspace_id)  # 404 for a workspace of others
        params = [("workspace_id", f"eq.{workspace_id}"), ("order", "id.desc")]
        if after is not None:
            params.append(("id", f"lt.{after}"))
        rows = await functions.select("training_states", *params, ("limit", str(limit)))
        following = rows[-1]["id"] if len(rows) == limit else None
        return TrainingPage.model_validate({"trainings": rows, "next": following})

    async def get_training(self, training_id: UUID, caller: SignedIn) -> TrainingState:
        """Return the results and the jobs of a training."""
        return TrainingState.model_validate(await self._read(training_id, caller.token))

    async def transcribe(
        self, training_id: UUID, body: NewTranscription, caller: SignedIn, services: Provided
    ) -> StartedTranscription:
        """Transcribe an upload of the caller. A repeated call returns the same job."""
        if str(body.user_id) != str(caller.subject):
            raise ApiError(403, "forbidden", "user_id must be the caller")
        # Check the form of the key before storage is read, so that no one can test for other
        # objects.
        match = KEY.fullmatch(body.audio_url)
        owner = (str(body.company_id), str(caller.subject))
        if match is None or match.group("workspace", "owner") != owner:
            raise ApiError(404, "upload_not_found", "Upload not found")
        with storage():
            if await self._app.bucket.find_size(body.audio_url) is None:
                raise ApiError(409, "upload_incomplete", "The upload is not complete")
        started = await self._app.acting_as(caller.token).call(
            "training_start",
            workspace_id=body.company_id,
            title=body.title or body.audio_url.rpartition("/")[2][:200],
            object_key=body.audio_url,
            training_id=training_id,
        )
        if started["wake"]:
            await services.waker.wake()
        return StartedTranscription.model_validate(started)

    async def get_transcript(self, training_id: UUID, caller: SignedIn) -> TranscriptState:
        """Return the transcript so far, with the time of each segment."""
        training = await self._read(training_id, caller.token)
        chunks = await self._app.acting_as(caller.token).select(
            "training_chunks", ("training_id", f"eq.{training_id}"), ("order", "number.asc")
        )
        segments = [segment for chunk in chunks for segment in chunk["segments"]]
        return TranscriptState.model_validate(
            {
                "text": " ".join(segment["text"] for segment in segments),
                "segments": segments,
                "language": next((c["language"] for c in chunks if c["language"]), None),
                "engine": chunks[0]["engine"] if chunks else None,
                "offline": any(chunk["offline"] for chunk in chunks),
                "complete": training["transcript"] is not None,
                "missing_seconds": (training["sound"] or {}).get("missing_seconds"),
            }
        )

    async def get_video(self, training_id: UUID, caller: SignedIn) -> Video:
        """Return a URL to play the video from, valid for an hour."""
        training = await self._read(training_id, caller.token)
        key = training["object_key"]
        with storage():
            if await self._app.bucket.find_size(key) is None:
                raise ApiError(404, "video_not_found", "The video is no longer stored")
            url = self._app.bucket.presign(key)
        published = training["published"] or {}
        return Video(
            url=url,
            expires_in_seconds=URL_SECONDS,
            host=published.get("host", "s3"),
            playback_id=published.get("playback_id"),
        )

    async def cancel(self, training_id: UUID, caller: SignedIn) -> TrainingState:
        """Stop the work and keep the finished results."""
        await self._app.acting_as(caller.token).call("training_cancel", training_id=training_id)
        return await self.get_training(training_id, caller)

    async def retry(self, training_id: UUID, caller: SignedIn, services: Provided) -> TrainingState:
        """Run a training's failed and cancelled jobs again, keeping the finished results."""
        retried = await self._app.acting_as(caller.token).call(
            "training_retry", training_id=training_id, repeatable=False
        )
        if retried["wake"]:
            await services.waker.wake()
        return await self.get_training(training_id, caller)

    async def share(self, training_id: UUID, body: Share, caller: SignedIn) -> Shared:
        """Create or delete the public link of a procedure."""
        link = await self._app.acting_as(caller.token).call(
            "training_share", training_id=training_id, is_shared=body.shared
        )
        key = link["share_id"]
        return Shared(share_id=key, url=f"/api/trainings/shared/{key}" if key else None)

    async def shared(self, request: Request, share_id: UUID, services: Provided) -> HTMLResponse:
        """Show a procedure by its public link. Each step has a frame that plays the video."""
        async with services.request_slot(request, None):
            procedure = (
                await self._app.acting_as(None).call("training_shared", share_id=share_id)
            )["shared"]
        if procedure is None:
            raise not_found("procedure")
        video = (
            self._app.bucket.presign(procedure["object_key"]) if procedure["has_picture"] else None
        )
        stored = StoredProcedure.model_validate(procedure["procedure"])
        return render(stored, video)

    async def delete_training(self, training_id: UUID, caller: SignedIn) -> None:
        """Delete a training, its results, its video and its sound, and cancel its jobs."""
        deleted = await self._app.acting_as(caller.token).call(
            "training_delete", training_id=training_id, repeatable=False
        )
        with suppress(ProcessorError):  # the lifecycle rules of the bucket delete the rest
            prefix = sound_prefix(deleted["workspace_id"], training_id)
            await self._app.bucket.remove(deleted["object_key"], prefix=prefix)

    async def _read(self, training_id: UUID, token: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = await self._app.acting_as(token).select(
            "training_states", ("id", f"eq.{training_id}")
        )
        if not rows:
            raise not_found("training")
        return rows[0]


def router(services: Services) -> APIRouter:
    """Create the app's routes."""
    app = services.provide(Training, lambda: Training(services.settings))
    everything = APIRouter()
    for prefix, tag, part in (
        ("/api/uploads", "uploads", UploadRoutes(app)),
        ("/api/trainings", "trainings", TrainingRoutes(app)),
    ):
        routes = APIRouter(prefix=prefix, tags=[tag])
        part.add_to(routes)
        everything.include_router(routes)
    return everything
