"""The app's routes, found by the `jobs` function: hand a video in, follow it, read and edit.

Uploading is `/api/uploads`; each route here is a call of a SQL function under the caller's token.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.training.files import VIDEO_SECONDS
from minutehand.apps.training.models import (
    Procedure,
    StoredProcedure,
    TrainingPage,
    TrainingState,
    TranscriptState,
    Video,
)
from minutehand.apps.training.services import Training
from minutehand.aws.uploads import KEY
from minutehand.web.auth import SignedIn
from minutehand.web.errors import ApiError
from minutehand.web.foreign import standing_on
from minutehand.web.services import Provided, Services

MARKDOWN = "text/markdown"


class NewTraining(BaseModel):
    """An uploaded video to be worked on."""

    model_config = ConfigDict(extra="forbid")

    workspace_id: UUID
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
    object_key: Annotated[
        str, Field(min_length=1, max_length=400, description="The complete upload's `key`.")
    ]


class EditedProcedure(BaseModel):
    """A procedure as a person wants it."""

    model_config = ConfigDict(extra="forbid")

    base_version: int = Field(ge=1, description="The version that was edited.")
    procedure: Procedure


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
        router.add_api_route("/{training_id}", self.get_training, methods=["GET"])
        router.add_api_route(
            "/{training_id}", self.delete_training, methods=["DELETE"], status_code=204
        )
        router.add_api_route("/{training_id}/transcript", self.get_transcript, methods=["GET"])
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
        """Have an uploaded video worked on; the same upload finds the same training, with 200."""
        # by its shape, before storage is asked: nobody learns from here what else lies there
        named = KEY.fullmatch(body.object_key)
        own = (str(body.workspace_id), str(caller.subject))
        if named is None or named.group("workspace", "owner") != own:
            raise ApiError(404, "upload_not_found", "No such upload")
        with standing_on("the uploads bucket"):
            size = await self._app.files.find_size(body.object_key)
        if size is None:
            raise ApiError(409, "upload_incomplete", "The upload is not complete")
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

    async def get_transcript(self, training_id: UUID, caller: SignedIn) -> TranscriptState:
        """What was heard so far."""
        found = await self._app.acting_as(caller.token).transcript(training_id)
        return TranscriptState.model_validate(found)

    async def get_procedure(
        self,
        request: Request,
        training_id: UUID,
        caller: SignedIn,
        version: Annotated[
            int | None, Query(ge=1, le=1000, description="The latest when left out.")
        ] = None,
    ) -> Any:
        """The procedure: JSON with the list of its versions, or Markdown by `Accept`."""
        raw = await self._app.acting_as(caller.token).procedure(training_id, version)
        found = StoredProcedure.model_validate(raw)
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
        """Store an edited procedure as the next version; 409 when somebody was faster."""
        store = self._app.acting_as(caller.token)
        edited = body.procedure.model_dump(mode="json")
        version = await store.save_procedure(training_id, body.base_version, edited)
        return StoredProcedure.model_validate(await store.procedure(training_id, version))

    async def get_video(self, training_id: UUID, caller: SignedIn) -> Video:
        """An address to play the video from, for an hour."""
        found = await self._app.acting_as(caller.token).video(training_id)
        with standing_on("the uploads bucket"):
            if await self._app.files.find_size(found["object_key"]) is None:
                raise ApiError(404, "video_not_found", "The video is no longer kept here")
            url = self._app.files.presign(
                found["object_key"], content_type=_media_type(found["object_key"])
            )
        publish = found["publish"] or {}
        return Video(
            url=url,
            expires_in_seconds=VIDEO_SECONDS,
            host=publish.get("host", "s3"),
            playback_id=publish.get("playback_id"),
        )

    async def cancel(self, training_id: UUID, caller: SignedIn) -> TrainingState:
        """Stop the work; what finished stages made stays. Harmless when repeated."""
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
        """Delete a training with all it made, the video included; work on it is stopped."""
        await self._app.acting_as(caller.token).delete(training_id)
        await services.waker.wake()

    async def _read(self, training_id: UUID, token: str) -> TrainingState:
        return TrainingState.model_validate(await self._app.acting_as(token).read(training_id))


def _media_type(key: str) -> str:
    """How a browser shall take the file, by its name: as a video in any case."""
    ending = key.rpartition(".")[2].lower()
    return {"webm": "video/webm", "ogv": "video/ogg", "mov": "video/quicktime"}.get(
        ending, "video/mp4"
    )


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Training, lambda: Training(services.settings))
    routes = APIRouter(prefix="/api/trainings", tags=["trainings"])
    TrainingRoutes(app).add_to(routes)
    return routes
