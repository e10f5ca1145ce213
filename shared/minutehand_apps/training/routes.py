"""The app's routes, found by the `jobs` function: hand a recording in, follow it, read and edit.

Uploading is uploads.py's; each route here is a call of a SQL function under the caller's token.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from minutehand.aws.uploads import KEY
from minutehand.config import Settings
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import CallerFunctions
from minutehand.web.auth import SignedIn
from minutehand.web.errors import ApiError
from minutehand.web.foreign import standing_on
from minutehand.web.services import Provided, Services
from minutehand.web.uploads import Body
from minutehand_apps.training.files import VIDEO_SECONDS, still_key
from minutehand_apps.training.models import (
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
from minutehand_apps.training.remote import refuse_address
from minutehand_apps.training.services import Training
from minutehand_apps.training.subtitles import subrip, webvtt
from minutehand_apps.training.uploads import UploadRoutes
from minutehand_apps.training.webhooks import WebhookRoutes

logger = logging.getLogger(__name__)

MARKDOWN = "text/markdown"
#: How often an edit is merged with edits that others store meanwhile.
MERGES = 5
AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
#: How a transcript is given, by media type and by ending.
TRANSCRIPTS = {"json": "application/json", "vtt": "text/vtt", "srt": "application/x-subrip"}


class NewTraining(Body):
    """An uploaded video to be worked on."""

    workspace_id: UUID
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
    object_key: Annotated[
        str, Field(min_length=1, max_length=400, description="The complete upload's `key`.")
    ]


class NewTranscription(Body):
    """A recording to be transcribed."""

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
    """A step as a person wants it; its number is its place in the list, its still is not read."""

    number: int | None = None
    still: str | None = None


class EditedSteps(Procedure):
    """A procedure as a person wants it."""

    steps: Annotated[list[EditedStep], Field(min_length=1, max_length=200)]  # type: ignore[assignment]


class EditedProcedure(Body):
    """A new version of a procedure."""

    base_version: int = Field(ge=1, description="The version that was edited.")
    procedure: EditedSteps


class TrainingRoutes:
    """The routes below `/api/trainings`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        created: dict[int | str, dict[str, Any]] = {
            201: {"description": "Started; 200 when the upload has its training already."}
        }
        add("", self.start, methods=["POST"], status_code=201, responses=created)
        add("", self.list_trainings, methods=["GET"])
        add("/stuck-jobs", self.get_stuck_jobs, methods=["GET"])
        add("/{training_id}", self.get_training, methods=["GET"])
        add("/{training_id}", self.delete_training, methods=["DELETE"], status_code=204)
        add(
            "/{training_id}/transcription",
            self.transcribe,
            methods=["POST"],
            status_code=201,
            responses={201: {"description": "Enqueued; 200 when the recording has its job."}},
        )
        text: dict[str, Any] = {"schema": {"type": "string"}}
        others = {name: text for kind, name in TRANSCRIPTS.items() if kind != "json"}
        for path in ("/{training_id}/transcript", "/{training_id}/transcript.{ending}"):
            add(
                path,
                self.get_transcript,
                methods=["GET"],
                response_model=TranscriptState,
                responses={200: {"content": others}},
            )
        add(
            "/{training_id}/procedure",
            self.get_procedure,
            methods=["GET"],
            response_model=StoredProcedure,
            responses={200: {"content": {MARKDOWN: {"schema": {"type": "string"}}}}},
        )
        add("/{training_id}/procedure", self.save_procedure, methods=["PUT"])
        add("/{training_id}/video", self.get_video, methods=["GET"])
        add("/{training_id}/cancel", self.cancel, methods=["POST"])
        add("/{training_id}/retry", self.retry, methods=["POST"])

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
        functions = self._app.acting_as(caller.token)
        started = await functions.call(
            "training_start",
            workspace_id=body.workspace_id,
            title=body.title,
            object_key=body.object_key,
            size_bytes=size,
        )
        if started["wake"]:
            await services.waker.wake()
        if not started["created"]:
            response.status_code = 200
        return await self._read(started["training_id"], caller.token)

    async def list_trainings(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        after: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> TrainingPage:
        """Trainings of a workspace, newest first."""
        found = await self._app.acting_as(caller.token).call(
            "training_list", workspace_id=workspace_id, after=after, limit=limit
        )
        rows = found["trainings"]
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
        found = await self._app.acting_as(caller.token).call(
            "training_stuck_jobs", workspace_id=workspace_id, minutes=minutes
        )
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
        started = await self._app.acting_as(caller.token).call(
            "training_transcribe",
            workspace_id=body.company_id,
            training_id=training_id,
            title=body.title or name[:200],
            audio_url=key or body.audio_url,
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
        functions = self._app.acting_as(caller.token)
        found = await functions.call("training_transcript", training_id=training_id)
        text = " ".join(segment["text"] for segment in found["segments"])
        state = TranscriptState.model_validate({**found, "text": text})
        wanted = ending or _wanted(request.headers.get("accept", ""))
        if wanted == "json":
            return state
        subtitles = webvtt if wanted == "vtt" else subrip
        name = f"{training_id}.{wanted}"
        return _to_save(subtitles(state.segments), name, TRANSCRIPTS[wanted])

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
        found = self._stored(
            await self._version(self._app.acting_as(caller.token), training_id, version)
        )
        if MARKDOWN not in request.headers.get("accept", ""):
            return found
        from minutehand_apps.training.procedure import markdown

        by = "edited by a person" if found.author == "person" else f"by {found.author}"
        text = markdown(found.procedure, note=f"Version {found.version}, {by}")
        return _to_save(text, f"procedure-{training_id}.md", MARKDOWN)

    async def save_procedure(
        self, training_id: UUID, body: EditedProcedure, caller: SignedIn, services: Provided
    ) -> StoredProcedure:
        """Store an edited procedure as the next version.

        Where another edit was stored first, both are merged step by step. 409 `edit_conflict` if
        both changed one step: `detail` is `{version, conflicts, merged}`, the latest version, what
        conflicts, and the merge with the caller's texts, to be saved with that `base_version`.
        """
        from minutehand_apps.training.merging import keep_evidence, merge

        functions = self._app.acting_as(caller.token)
        base = await self._version(functions, training_id, body.base_version)
        was = Procedure.model_validate(base["procedure"])
        wanted = mine = keep_evidence(was, body.procedure)
        version = body.base_version
        for _ in range(MERGES):
            try:
                saved = await functions.call(
                    "training_save_procedure",
                    training_id=training_id,
                    base_version=version,
                    procedure=wanted.model_dump(mode="json"),
                    repeatable=False,
                )
            except QueueError as error:
                if error.word != "edit_conflict":
                    raise
            else:
                if saved["wake"]:
                    await services.waker.wake()
                return self._stored(await self._version(functions, training_id, saved["version"]))
            latest = await self._version(functions, training_id, None)
            version = latest["version"]
            wanted, conflicts = merge(was, mine, Procedure.model_validate(latest["procedure"]))
            if conflicts:
                raise ApiError(
                    409,
                    "edit_conflict",
                    "Someone else has changed the same part of the procedure",
                    detail={
                        "version": version,
                        "conflicts": [each.model_dump(mode="json") for each in conflicts],
                        "merged": wanted.model_dump(mode="json"),
                    },
                )
        raise ApiError(409, "edit_conflict", "Others are editing the procedure; try again")

    async def get_video(self, training_id: UUID, caller: SignedIn) -> Video:
        """A URL to play the video from, valid for an hour."""
        functions = self._app.acting_as(caller.token)
        found = await functions.call("training_video", training_id=training_id)
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
        await self._app.acting_as(caller.token).call("training_cancel", training_id=training_id)
        return await self._read(training_id, caller.token)

    async def retry(
        self,
        training_id: UUID,
        caller: SignedIn,
        services: Provided,
        without_model: Annotated[
            bool, Query(description="Extract the procedure, although there is a language model.")
        ] = False,
    ) -> TrainingState:
        """Go on with a failed or cancelled training behind its last finished stage."""
        retried = await self._app.acting_as(caller.token).call(
            "training_retry",
            training_id=training_id,
            without_model=without_model,
            repeatable=False,
        )
        if retried["wake"]:
            await services.waker.wake()
        return await self._read(training_id, caller.token)

    async def delete_training(
        self, training_id: UUID, caller: SignedIn, services: Provided
    ) -> None:
        """Delete a training with everything it made, the video included; its jobs are cancelled."""
        await self._app.acting_as(caller.token).call(
            "training_delete", training_id=training_id, repeatable=False
        )
        await services.waker.wake()

    async def _read(self, training_id: UUID, token: str) -> TrainingState:
        found = await self._app.acting_as(token).call("training_read", training_id=training_id)
        return TrainingState.model_validate(found)

    async def _version(
        self, functions: CallerFunctions, training_id: UUID, version: int | None
    ) -> dict[str, Any]:
        return await functions.call("training_procedure", training_id=training_id, version=version)

    def _stored(self, raw: dict[str, Any]) -> StoredProcedure:
        """A stored version as returned: its steps are numbered, and lead to their stills."""
        steps = [
            NumberedStep(number=number, still=self._still(raw, step["at_seconds"]), **step)
            for number, step in enumerate(raw["procedure"]["steps"], 1)
        ]
        numbered = NumberedProcedure.model_validate({**raw["procedure"], "steps": steps})
        return StoredProcedure.model_validate({**raw, "procedure": numbered})

    def _still(self, raw: dict[str, Any], at_seconds: float) -> str | None:
        if at_seconds not in raw["stills"]:
            return None
        key = still_key(raw["workspace_id"], raw["training_id"], at_seconds)
        return self._app.files.presign(key, content_type="image/jpeg")


def _to_save(text: str, name: str, media_type: str) -> Response:
    """A text as a file, in the form that `Accept` asked for."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Accept"}
    return Response(text, media_type=f"{media_type}; charset=utf-8", headers=headers)


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
