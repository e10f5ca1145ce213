"""The routes of uploads as training has them: a complete recording becomes a training.

Parts, checksums and ids are minutehand.web.uploads'.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from minutehand.web import uploads
from minutehand.web.auth import SignedIn
from minutehand.web.caller import Caller
from minutehand.web.errors import ApiError
from minutehand.web.services import Provided, Services
from minutehand_apps.training.models import TrainingState
from minutehand_apps.training.services import Training


class CreateUpload(uploads.NewUpload):
    """A recording to upload."""

    training_id: UUID | None = Field(
        default=None, description="The id that the training gets; a new one if omitted."
    )


class Upload(uploads.Upload):
    """An upload, what has arrived of it, and the training it became."""

    training: TrainingState | None = Field(
        default=None, description="What the complete file became, with its jobs."
    )


class UploadRoutes(uploads.UploadRoutes):
    """The routes below `/api/uploads`."""

    answer = Upload

    def __init__(self, app: Training) -> None:
        self._app = app

    @property
    def media_types(self) -> tuple[str, ...]:  # type: ignore[override]  # read when it is asked for
        """As the environment says."""
        return self._app.videos.upload_types

    @property
    def most_bytes(self) -> int:  # type: ignore[override]
        """As the environment says."""
        return self._app.videos.upload_bytes

    async def create_upload(  # type: ignore[override]  # its route takes one field more
        self, body: CreateUpload, caller: SignedIn, services: Provided
    ) -> uploads.Upload:
        """Begin an upload of a recording, of an allowed type and size."""
        wanted = body.training_id
        # before the bytes are sent: completing the upload would refuse it
        if wanted is not None and await self.read(wanted, caller) is not None:
            raise ApiError(409, "training_exists", "This training has a recording already")
        return await self.begin(body, caller, services, wanted_id=body.training_id)

    async def on_complete(
        self, place: uploads.Place, checksum: str, caller: Caller, services: Services
    ) -> dict[str, Any]:
        """Create the training and enqueue its jobs."""
        functions = self._app.acting_as(caller.token)
        started = await functions.call(
            "training_start",
            workspace_id=place.named["workspace"],
            title=place.title,
            object_key=place.key,
            training_id=place.wanted_id,
            checksum=checksum,
        )
        if started["wake"]:
            await services.waker.wake()
        return {"training": await self.read(started["training_id"], caller)}

    async def find(
        self, place: uploads.Place, caller: Caller, services: Services
    ) -> dict[str, Any] | None:
        """The training of the recording."""
        found = await self.read(place.key, caller, "object_key")
        return {"training": found} if found else None

    async def read(
        self, value: UUID | str, caller: Caller, column: str = "id"
    ) -> dict[str, Any] | None:
        """A training, if the caller may see it."""
        functions = self._app.acting_as(caller.token)
        found = await functions.select("training_states", (column, f"eq.{value}"))
        return found[0] if found else None
