"""The app's routes, found by the `jobs` function: hand a recording in, follow it, read and edit.

Uploading is uploads.py's; each route here is a call of a SQL function under the caller's token.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.training.files import VIDEO_SECONDS
from minutehand.apps.training.models import (
    NumberedProcedure,
    NumberedStep,
    Procedure,
    Step,
    StoredProcedure,
    StuckJobs,
    TrainingPage,
    TrainingState,
    TranscriptState,
    Video,
)
from minutehand.apps.training.remote import refuse_address
from minutehand.apps.training.services import Training
from minutehand.apps.training.subtitles import subrip, webvtt
from minutehand.apps.training.uploads import UploadRoutes
from minutehand.apps.training.webhooks import WebhookRoutes
from minutehand.aws.uploads import KEY
from minutehand.config import Settings
from minutehand.web.auth import SignedIn
from minutehand.web.errors import ApiError
from minutehand.web.foreign import standing_on
from minutehand.web.services import Provided, Services

logger = logging.getLogger(__name__)

MARKDOWN = "text/markdown"
AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
#: How a transcript is given, by media type and by ending.
TRANSCRIPTS = {"json": "application/json", "vtt": "text/vtt", "srt": "application/x-subrip"}


class NewTraining(BaseModel):
    """An uploaded video to be worked on."""

    model_config = ConfigDict(extra="forbid")

    workspace_id: UUID
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
    object_key: Annotated[
        str, Field(min_length=1, max_length=400, description="The complete upload's `key`.")
    ]


class NewTranscription(BaseModel):
    """A recording to be transcribed."""

    model_config = ConfigDict(extra="forbid")

    user_id: UUID = Field(description="The caller.")
    company_id: UUID = Field(description="The workspace it belongs to.")
    audio_url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="An upload of the caller's, by key or address; or an https address of a"
            " host that the operator allows.",
        ),
    ]
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")] | None = None


class StartedTranscription(BaseModel):
    """The job that transcribes a recording."""

    job_id: UUID
    training_id: UUID


class EditedStep(Step):
    """A step as a person wants it; its number is its place in the list."""

    number: int | None = None


class EditedSteps(Procedure):
    """A procedure as a person wants it."""

    steps: Annotated[list[EditedStep], Field(min_length=1, max_length=200)]  # type: ignore[assignment]


class EditedProcedure(BaseModel):
    """A new version of a procedure."""

    model_config = ConfigDict(extra="forbid")

    base_version: int = Field(ge=1, description="The version that was edited.")
    procedure: EditedSteps


class TrainingRoutes:
    """The routes below `/api/trainings`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        created: dict[int | str, dict[str, Any]] = {
            201: {"description": "Started; 200 when the upload has its training already."}
        }
        router.add_api_route("", self.start, methods=["POST"], status_code=201, responses=created)
        router.add_api_route("", self.list_trainings, methods=["GET"])
        router.add_api_route("/stuck-jobs", self.get_stuck_jobs, methods=["GET"])
        router.add_api_route("/{training_id}", self.get_training, methods=["GET"])
        router.add_api_route(
            "/{training_id}", self.delete_training, methods=["DELETE"], status_code=204
        )
        router.add_api_route(
            "/{training_id}/transcription",
            self.transcribe,
            methods=["POST"],
            status_code=201,
            responses={201: {"description": "Enqueued; 200 when the recording has its job."}},
        )
        text: dict[str, Any] = {"schema": {"type": "string"}}
        others = {name: text for kind, name in TRANSCRIPTS.items() if kind != "json"}
        for path in ("/{training_id}/transcript", "/{training_id}/transcript.{ending}"):
            router.add_api_route(
                path,
                self.get_transcript,
                methods=["GET"],
                response_model=TranscriptState,
                responses={200: {"content": others}},
            )
        router.add_api_route(
            "/{training_id}/procedure",
            self.get_procedure,
            methods=["GET"],
            response_model=StoredProcedure,
            responses={200: {"content": {MARKDOWN: {"schema": {"type": "string"}}}}},
        )
        router.add_api_route("/{training_id}/procedure", self.save_procedure, methods=["PUT"])
        router.add_api_route("/{training_id}/video", self.get_video, methods=["GET"])
        router.add_api_route("/{training_id}/cancel", self.cancel, methods=["POST"])
        router.add_api_route("/{training_id}/retry", self.retry, methods=["POST"])

    async def start(
        self, body: NewTraining, caller: SignedIn, services: Provided, response: Response
    ) -> TrainingState:
        """Process an uploaded video; the same upload returns the same training, with 200."""
        # by its shape, before storage is asked: no one learns from here what else lies there
        named = KEY.fullmatch(body.object_key)
        own = (str(body.workspace_id), str(caller.subject))
        if named is None or named.group("workspace", "owner") != own:
            raise ApiError(404, "upload_not_found", "No such upload")
        with standing_on("the uploads bucket"):
            size = await self._app.files.find_size(body.object_key)
        if size is None:
            raise _incomplete()
        store = self._app.acting_as(caller.token)
        started = await store.start(body.workspace_id, body.title, body.object_key, size)
        if started["wake"]:
            await services.waker.wake()
        if not started["created"]:
            response.status_code = 200
        return TrainingState.model_validate(await store.read(started["training_id"]))

    async def list_trainings(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> TrainingPage:
        """Trainings of a workspace, newest first."""
        rows = await self._app.acting_as(caller.token).list(workspace_id, after=after, limit=limit)
        following = rows[-1]["id"] if len(rows) == limit else None
        return TrainingPage.model_validate({"trainings": rows, "next": following})

    async def get_training(self, training_id: UUID, caller: SignedIn) -> TrainingState:
        """A training, stage by stage, with the jobs of its present run."""
        return await self._read(training_id, caller.token)

    async def get_stuck_jobs(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        minutes: Annotated[int, Query(ge=1, le=1440)] = 10,
    ) -> StuckJobs:
        """Jobs that have been due for more than `minutes` and were not started, and why."""
        found = await self._app.acting_as(caller.token).stuck_jobs(workspace_id, minutes=minutes)
        for job in found["jobs"]:
            logger.error(
                "A training's job is stuck",
                extra={
                    "event": "training.job_stuck",
                    "job_id": job["job_id"],
                    "job_type": job["job_type"],
                    "pending_seconds": job["pending_seconds"],
                    "reason": job["reason"],
                },
            )
        return StuckJobs.model_validate(found)

    async def transcribe(
        self,
        training_id: UUID,
        body: NewTranscription,
        caller: SignedIn,
        services: Provided,
        response: Response,
    ) -> StartedTranscription:
        """Have a recording transcribed, and a procedure made of it; the training is made if new."""
        if str(body.user_id) != str(caller.subject):
            raise ApiError(403, "forbidden", "user_id must be the caller")
        key = _own_key(body.audio_url, services.settings)
        if key is None:
            refused = refuse_address(body.audio_url, self._app.videos)
            if refused is not None:
                raise ApiError(422, "audio_url_refused", refused, detail={"field": "audio_url"})
        else:
            with standing_on("the uploads bucket"):
                if await self._app.files.find_size(key) is None:
                    raise _incomplete()
        name = urlsplit(body.audio_url).path.rpartition("/")[2] or "Recording"
        started = await self._app.acting_as(caller.token).transcribe(
            body.company_id, training_id, body.title or name[:200], key or body.audio_url
        )
        if started["wake"]:
            await services.waker.wake()
        if not started["created"]:
            response.status_code = 200
        return StartedTranscription.model_validate(started)

    async def get_transcript(
        self,
        request: Request,
        training_id: UUID,
        caller: SignedIn,
        ending: Literal["json", "vtt", "srt"] | None = None,
    ) -> Any:
        """The transcript so far: JSON, or subtitles by `Accept` or by ending."""
        found = await self._app.acting_as(caller.token).transcript(training_id)
        text = " ".join(segment["text"] for segment in found["segments"])
        state = TranscriptState.model_validate({**found, "text": text})
        wanted = ending or _wanted(request.headers.get("accept", ""))
        if wanted == "json":
            return state
        subtitles = webvtt if wanted == "vtt" else subrip
        return Response(
            subtitles(state.segments),
            media_type=f"{TRANSCRIPTS[wanted]}; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="{training_id}.{wanted}"',
                "Vary": "Accept",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def get_procedure(
        self,
        request: Request,
        training_id: UUID,
        caller: SignedIn,
        version: Annotated[
            int | None, Query(ge=1, le=1000, description="The latest if omitted.")
        ] = None,
    ) -> Any:
        """The procedure: JSON with the list of its versions, or Markdown by `Accept`."""
        raw = await self._app.acting_as(caller.token).procedure(training_id, version)
        found = _stored(raw)
        if MARKDOWN not in request.headers.get("accept", ""):
            return found
        from minutehand.apps.training.procedure import markdown

        by = "edited by a person" if found.author == "person" else f"by {found.author}"
        return Response(
            markdown(found.procedure, note=f"Version {found.version}, {by}"),
            media_type=f"{MARKDOWN}; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="procedure-{training_id}.md"',
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def save_procedure(
        self, training_id: UUID, body: EditedProcedure, caller: SignedIn
    ) -> StoredProcedure:
        """Store an edited procedure as the next version; 409 if another edit was stored first."""
        store = self._app.acting_as(caller.token)
        edited = body.procedure.model_dump(mode="json", exclude={"steps": {"__all__": {"number"}}})
        version = await store.save_procedure(training_id, body.base_version, edited)
        return _stored(await store.procedure(training_id, version))

    async def get_video(self, training_id: UUID, caller: SignedIn) -> Video:
        """A URL to play the video from, valid for an hour."""
        found = await self._app.acting_as(caller.token).video(training_id)
        with standing_on("the uploads bucket"):
            key = found["object_key"]
            if key is None or await self._app.files.find_size(key) is None:
                raise ApiError(404, "video_not_found", "The video is not kept here")
            url = self._app.files.presign(key, content_type=_media_type(key))
        publish, media = found["publish"] or {}, found["media"] or {}
        return Video(
            url=url,
            expires_in_seconds=VIDEO_SECONDS,
            host=publish.get("host", "s3"),
            playback_id=publish.get("playback_id"),
            duration_seconds=publish.get("duration_seconds") or media.get("seconds"),
            playable=media.get("playable"),
            note=media.get("note"),
        )

    async def cancel(self, training_id: UUID, caller: SignedIn) -> TrainingState:
        """Stop the work; results of finished stages stay. Harmless when repeated."""
        await self._app.acting_as(caller.token).cancel(training_id)
        return await self._read(training_id, caller.token)

    async def retry(self, training_id: UUID, caller: SignedIn, services: Provided) -> TrainingState:
        """Go on with a failed or cancelled training behind its last finished stage."""
        retried = await self._app.acting_as(caller.token).retry(training_id)
        if retried["wake"]:
            await services.waker.wake()
        return await self._read(training_id, caller.token)

    async def delete_training(
        self, training_id: UUID, caller: SignedIn, services: Provided
    ) -> None:
        """Delete a training with everything it made, the video included; its jobs are cancelled."""
        await self._app.acting_as(caller.token).delete(training_id)
        await services.waker.wake()

    async def _read(self, training_id: UUID, token: str) -> TrainingState:
        return TrainingState.model_validate(await self._app.acting_as(token).read(training_id))


def _stored(raw: dict[str, Any]) -> StoredProcedure:
    """A stored version as returned: its steps are numbered."""
    steps = [
        NumberedStep(number=number, **step)
        for number, step in enumerate(raw["procedure"]["steps"], 1)
    ]
    numbered = NumberedProcedure.model_validate({**raw["procedure"], "steps": steps})
    return StoredProcedure.model_validate({**raw, "procedure": numbered})


def _wanted(accept: str) -> Literal["json", "vtt", "srt"]:
    """The form that a client likes best, in its own order."""
    for part in accept.lower().split(","):
        name = part.partition(";")[0].strip()
        if name == TRANSCRIPTS["vtt"]:
            return "vtt"
        if name in {TRANSCRIPTS["srt"], "application/srt", "text/srt"}:
            return "srt"
    return "json"


def _own_key(address: str, settings: Settings) -> str | None:
    """The key of an upload that an address names, as a key, `s3://` or a presigned URL."""
    if KEY.fullmatch(address) is not None:
        return address
    parts, bucket = urlsplit(address), settings.uploads_bucket or "-"
    path = parts.path.lstrip("/")
    local = urlsplit(settings.aws_endpoint_url or "").netloc
    if local and parts.netloc == local:
        path = path.removeprefix(f"{bucket}/")
    elif not (
        (parts.scheme == "s3" and parts.netloc == bucket)
        or (parts.netloc.startswith(f"{bucket}.s3.") and parts.netloc.endswith(AWS_HOSTS))
    ):
        return None
    return path if KEY.fullmatch(path) is not None else None


def _media_type(key: str) -> str:
    """How a browser shall take the file, by its name: as a video in any case."""
    ending = key.rpartition(".")[2].lower()
    return {
        "webm": "video/webm",
        "ogv": "video/ogg",
        "mov": "video/quicktime",
        "mp3": "audio/mpeg",
        "wav": "audio/wav",
        "ogg": "audio/ogg",
        "flac": "audio/flac",
    }.get(ending, "video/mp4")


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Training, lambda: Training(services.settings))
    everything = APIRouter()
    for prefix, tag, part in (
        ("/api/uploads", "uploads", UploadRoutes(app)),
        ("/api/trainings/webhooks", "trainings", WebhookRoutes(app)),
        ("/api/trainings", "trainings", TrainingRoutes(app)),
    ):
        routes = APIRouter(prefix=prefix, tags=[tag])
        part.add_to(routes)
        everything.include_router(routes)
    return everything


def _incomplete() -> ApiError:
    return ApiError(409, "upload_incomplete", "The upload is not complete")
