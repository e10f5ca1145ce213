"""The app's routes for trainings, which the `jobs` function finds and serves.

`uploads.py` contains the routes for uploads. Row level security decides which rows a route reads.
Other routes call SQL functions with the caller's token.
"""

from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from minutehand.queue import CallerFunctions, ProcessorError
from minutehand.web import (
    ApiError,
    Body,
    Provided,
    Services,
    Share,
    Shared,
    SignedIn,
    UserFunctions,
    not_found,
)
from minutehand_apps.training.bucket import VIDEO_SECONDS, sound_prefix
from minutehand_apps.training.models import (
    StepText,
    StoredProcedure,
    TrainingPage,
    TrainingState,
    TranscriptState,
    Video,
)
from minutehand_apps.training.page import render
from minutehand_apps.training.uploads import App, routes as upload_routes, storage


class NewTranscription(Body):
    """A request to transcribe a recording."""

    user_id: UUID = Field(description="The caller.")
    company_id: UUID = Field(description="The workspace of the training.")
    audio_url: Annotated[
        str, Field(min_length=1, max_length=2000, description="`key` of an upload of the caller.")
    ]


class StartedTranscription(BaseModel):
    """The job that transcribes the recording."""

    job_id: UUID
    training_id: UUID


routes = APIRouter(prefix="/api/trainings", tags=["trainings"])


@routes.get("")
async def list_trainings(
    workspace_id: UUID,
    functions: UserFunctions,
    after: Annotated[UUID | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> TrainingPage:
    """List the trainings of a workspace with their jobs and progress, newest first."""
    await functions.workspace(workspace_id)  # 404 if the caller is not a member
    params = [("workspace_id", f"eq.{workspace_id}"), ("order", "id.desc")]
    if after is not None:
        params.append(("id", f"lt.{after}"))
    rows = await functions.select("training_states", *params, ("limit", str(limit)))
    following = rows[-1]["id"] if len(rows) == limit else None
    return TrainingPage.model_validate({"trainings": rows, "next": following})


@routes.get("/{training_id}")
async def get_training(training_id: UUID, functions: UserFunctions) -> TrainingState:
    """Return the results and the jobs of a training."""
    return TrainingState.model_validate(await _read(training_id, functions))


@routes.post("/{training_id}/transcription", status_code=201)
async def transcribe(
    training_id: UUID,
    body: NewTranscription,
    caller: SignedIn,
    functions: UserFunctions,
    services: Provided,
) -> StartedTranscription:
    """Transcribe a recording that the caller has uploaded. A repeated call returns the same job."""
    if str(body.user_id) != str(caller.subject):
        raise ApiError(403, "forbidden", "user_id must be the caller")
    started = await functions.call(
        "training_start",
        workspace_id=body.company_id,
        title=body.audio_url.rpartition("/")[2],
        object_key=body.audio_url,
        training_id=training_id,
    )
    if started["wake"]:
        await services.waker.wake()
    return StartedTranscription.model_validate(started)


@routes.get("/{training_id}/transcript")
async def get_transcript(training_id: UUID, functions: UserFunctions) -> TranscriptState:
    """Return the finished part of the transcript, with the time of each segment."""
    training = await _read(training_id, functions)
    chunks = await functions.select(
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


@routes.get("/{training_id}/video")
async def get_video(training_id: UUID, functions: UserFunctions, app: App) -> Video:
    """Return a URL that plays the video. The URL is valid for five minutes."""
    training = await _read(training_id, functions)
    key = training["object_key"]
    with storage():
        if await app.bucket.find_size(key) is None:
            raise ApiError(404, "video_not_found", "The video is no longer stored")
        url = app.bucket.presign(key, seconds=VIDEO_SECONDS)
    published = training["published"] or {}
    return Video(
        url=url,
        expires_in_seconds=VIDEO_SECONDS,
        host=published.get("host", "s3"),
        playback_id=published.get("playback_id"),
    )


@routes.post("/{training_id}/cancel")
async def cancel(training_id: UUID, functions: UserFunctions) -> TrainingState:
    """Stop the jobs of a training. The finished results of the training are kept."""
    await functions.call("training_cancel", training_id=training_id)
    return await get_training(training_id, functions)


@routes.post("/{training_id}/retry")
async def retry(training_id: UUID, functions: UserFunctions, services: Provided) -> TrainingState:
    """Run the failed and cancelled jobs of a training again. Finished results are kept."""
    retried = await functions.call("training_retry", training_id=training_id, repeatable=False)
    if retried["wake"]:
        await services.waker.wake()
    return await get_training(training_id, functions)


@routes.put("/{training_id}/steps/{step}")
async def edit_step(
    training_id: UUID, step: int, body: StepText, functions: UserFunctions
) -> TrainingState:
    """Replace the text of one step of the procedure.

    The steps of a procedure are numbered from 1. A step keeps its time in the video.
    """
    await functions.call(
        "training_edit_step",
        training_id=training_id,
        step=step,
        title=body.title,
        detail=body.detail,
    )
    return await get_training(training_id, functions)


@routes.put("/{training_id}/share")
async def share(training_id: UUID, body: Share, functions: UserFunctions) -> Shared:
    """Create or delete the public link to a procedure."""
    link = await functions.call("training_share", training_id=training_id, is_shared=body.shared)
    return Shared.below("/api/trainings/shared", link["share_id"])


@routes.get("/shared/{share_id}", response_class=HTMLResponse)
async def shared(request: Request, share_id: UUID, services: Provided, app: App) -> HTMLResponse:
    """Show a procedure to anyone who has its public link.

    Each step can play its part of the video.
    """
    async with services.request_slot(request, None):
        found = await services.queue_of(None).call("training_shared", share_id=share_id)
    procedure = found["shared"]
    if procedure is None:
        raise not_found("procedure")
    key = procedure["object_key"]
    video = app.bucket.presign(key) if key else None
    stored = StoredProcedure.model_validate(procedure["procedure"])
    return render(stored, video)


@routes.delete("/{training_id}", status_code=204)
async def delete_training(training_id: UUID, functions: UserFunctions, app: App) -> None:
    """Delete a training with its results, its video and its audio chunks. Cancel its jobs."""
    deleted = await functions.call("training_delete", training_id=training_id, repeatable=False)
    with suppress(ProcessorError):  # the lifecycle rules delete remaining files
        await app.bucket.remove(deleted["object_key"])
        await app.bucket.remove(sound_prefix(deleted["workspace_id"], training_id))


async def _read(training_id: UUID, functions: CallerFunctions) -> dict[str, Any]:
    rows: list[dict[str, Any]] = await functions.select(
        "training_states", ("id", f"eq.{training_id}")
    )
    if not rows:
        raise not_found("training")
    return rows[0]


def router(_: Services) -> APIRouter:
    """Return the app's routes."""
    everything = APIRouter()
    everything.include_router(upload_routes)
    everything.include_router(routes)
    return everything
