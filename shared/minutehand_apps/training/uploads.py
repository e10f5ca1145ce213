"""The routes of uploads: begin, sign parts, complete, abort and resume a recording of any size.

An upload's id names its place and its owner; nothing about it is kept but in S3. A complete
recording becomes a training, in one transaction.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from minutehand.config import ConfigurationError
from minutehand.web import (
    ApiError,
    Body,
    Caller,
    Provided,
    Services,
    SignedIn,
    invalid_argument,
    not_found,
    unavailable,
)
from minutehand_apps.training.bucket import KEY, NAME_CHARACTERS
from minutehand_apps.training.models import TrainingState
from minutehand_apps.training.multipart import (
    URL_LIFETIME,
    StorageUnavailable,
    UploadIncomplete,
    UploadNotFound,
    Uploads,
)
from minutehand_apps.training.parts import MAX_BYTES, Plan, plan, read_checksum
from minutehand_apps.training.services import Training

#: Parts signed in one answer.
MAX_SIGNED = 100
#: Files up to this size are read when they are completed; larger ones are the worker's to check.
CHECKED_BYTES = 256 * 1024 * 1024
CHECKSUM = "x-amz-checksum-sha256"

Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
UploadId = Annotated[str, Path(max_length=4096)]
_MEDIA_TYPE = r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$"


def _of_file(text: str) -> str:
    """A file's checksum as `<hex>` over the whole, or `<hex>-<parts>` over its parts' checksums."""
    digest, dash, count = text.partition("-")
    if dash and not re.fullmatch("[0-9]{1,5}", count):
        raise ValueError("the number of parts follows the dash")
    return f"{base64.b64decode(read_checksum(digest)).hex()}{dash}{count}"


class CreateUpload(Body):
    """A recording to upload."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE)]
    size: Annotated[int, Field(strict=True, ge=0)]
    workspace_id: UUID | None = Field(
        default=None, description="May be omitted by members of a single workspace."
    )
    title: Title | None = Field(
        default=None, description="What it is called; after its file if omitted."
    )
    training_id: UUID | None = Field(
        default=None, description="The id that the training gets; a new one if omitted."
    )


class PartToSign(Body):
    """A part to send, and what is in it."""

    part_number: Annotated[int, Field(strict=True, ge=1)]
    checksum: Annotated[
        str,
        AfterValidator(read_checksum),
        Field(max_length=64, description="SHA-256, base64 or hexadecimal."),
    ]


class SignParts(Body):
    """Which parts to sign."""

    parts: Annotated[tuple[PartToSign, ...], Field(min_length=1, max_length=MAX_SIGNED)]


class CompleteUpload(Body):
    """What the whole file must be."""

    checksum: Annotated[
        str,
        AfterValidator(_of_file),
        Field(
            max_length=80,
            description="SHA-256 of the file, hexadecimal or base64; or of its parts' checksums,"
            " with a dash and their number behind it.",
        ),
    ]


class SignedPart(BaseModel):
    """Where to PUT one part, exactly how many bytes of it, and with which headers."""

    part_number: int
    url: str
    size_bytes: int
    headers: dict[str, str]


class SignedParts(BaseModel):
    """URLs to PUT parts to."""

    parts: tuple[SignedPart, ...]
    expires_in_seconds: int


class Upload(BaseModel):
    """An upload, what has arrived of it, and the training it became."""

    id: str
    key: str = Field(description="The object's name.")
    title: str
    size_bytes: int
    part_bytes: int
    part_count: int
    complete: bool = False
    missing: tuple[int, ...] = Field(description="Numbers of the parts yet to send.")
    training: TrainingState | None = Field(
        default=None, description="What the complete file became, with its jobs."
    )


class Place(BaseModel):
    """What an upload's id says; its holder may have written any of it."""

    model_config = ConfigDict(frozen=True)

    key: str
    #: S3's id; an empty one would make a call about the upload one about the object.
    s3_id: Annotated[str, Field(pattern="^[!-~]{1,1024}$")]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    title: Title
    #: The id that its training is to have.
    training_id: UUID | None = None

    @property
    def cut(self) -> Plan:
        """How the file is cut."""
        return plan(self.size_bytes)

    @property
    def named(self) -> re.Match[str]:
        """The workspace that it goes to, and the owner who began it; ValueError where none is."""
        if (named := KEY.fullmatch(self.key)) is None:
            raise ValueError("not a key of ours")
        return named

    def encode(self) -> str:
        """The upload's id; URL-safe."""
        raw = self.model_dump_json(exclude_none=True).encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, upload_id: str) -> Self:
        """What an id says.

        Raises:
            ValueError: No id of ours.
        """
        padded = upload_id + "=" * (-len(upload_id) % 4)
        return cls.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))


class UploadRoutes:
    """The routes below `/api/uploads`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("", self.create_upload, methods=["POST"], status_code=201)
        add("/{upload_id}", self.get_upload, methods=["GET"])
        add("/{upload_id}/parts", self.sign_parts, methods=["POST"])
        add("/{upload_id}/complete", self.complete_upload, methods=["POST"])
        add("/{upload_id}", self.abort_upload, methods=["DELETE"], status_code=204)

    async def create_upload(
        self, body: CreateUpload, caller: SignedIn, services: Provided
    ) -> Upload:
        """Begin an upload of a recording, of an allowed type and size."""
        kind, taken = body.content_type, self._app.videos.upload_types
        if not any(kind == each or fnmatch(kind, each) for each in taken):
            raise ApiError(
                415,
                "upload_type_refused",
                f"Files of type {kind} are not taken",
                detail={"allowed": list(taken)},
            )
        self._refuse_size(body.size)
        if body.size == 0:
            raise ApiError(422, "empty_file", "The file is empty")
        wanted = body.training_id
        # before the bytes are sent: completing the upload would refuse it
        if wanted is not None and await self._read(wanted, caller) is not None:
            raise ApiError(409, "training_exists", "This training has a recording already")
        workspace_id = await services.queue_of(caller).workspace(body.workspace_id)
        key = (
            f"workspaces/{workspace_id}/{caller.subject}/{uuid.uuid4()}/{_safe_name(body.filename)}"
        )
        with self._storage() as uploads:
            s3_id = await uploads.create(key, content_type=kind)
        place = Place(
            key=key,
            s3_id=s3_id,
            size_bytes=body.size,
            title=body.title or _title(body.filename),
            training_id=wanted,
        )
        return _answer(place, missing=place.cut.missing(()))

    async def get_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> Upload:
        """What has arrived, to resume an upload after a break, and what it became."""
        place = await _place(upload_id, caller, services)
        with self._storage() as uploads:
            try:
                arrived = await uploads.parts(place.key, place.s3_id)
            except UploadNotFound:
                if await uploads.size_of(place.key) != place.size_bytes:
                    raise
                training = await self._read(place.key, caller, "object_key")
                return _answer(place, missing=(), training=training)
        return _answer(place, missing=place.cut.missing(arrived))

    async def sign_parts(
        self, upload_id: UploadId, body: SignParts, caller: SignedIn, services: Provided
    ) -> SignedParts:
        """URLs for parts, each valid only for the bytes of its checksum; ask for more as needed."""
        place = await _place(upload_id, caller, services)
        # again: the id is the caller's to write
        self._refuse_size(place.size_bytes)
        checksums = {part.part_number: part.checksum for part in body.parts}
        if max(checksums) > place.cut.count:
            raise invalid_argument("parts", f"names part {max(checksums)} of {place.cut.count}")
        with self._storage() as uploads:
            urls = await uploads.sign(place.key, place.s3_id, place.cut, checksums)
        return SignedParts(
            parts=tuple(
                SignedPart(
                    part_number=number,
                    url=url,
                    size_bytes=place.cut.bytes_of(number),
                    headers={CHECKSUM: checksums[number]},
                )
                for number, url in urls.items()
            ),
            expires_in_seconds=int(URL_LIFETIME.total_seconds()),
        )

    async def complete_upload(
        self, upload_id: UploadId, body: CompleteUpload, caller: SignedIn, services: Provided
    ) -> Upload:
        """Join the parts, check the file, and make of it what it becomes; harmless when repeated.

        409 with the missing parts when some have not arrived; 422 `checksum_mismatch` when the
        file is another one, which is removed. Larger files are checked by the worker.
        """
        place = await _place(upload_id, caller, services)
        with self._storage() as uploads:
            await uploads.complete(place.key, place.s3_id, place.cut)
            if place.size_bytes <= CHECKED_BYTES and not await uploads.check(
                place.key, place.cut, body.checksum
            ):
                await uploads.remove(place.key)
                raise ApiError(
                    422,
                    "checksum_mismatch",
                    "The file that arrived is not the one that was sent: begin the upload again",
                )
        training = await self._start(place, body.checksum, caller, services)
        return _answer(place, missing=(), training=training)

    async def abort_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> None:
        """Abort an upload and delete its parts; a complete file stays."""
        place = await _place(upload_id, caller, services)
        with self._storage() as uploads:
            await uploads.abort(place.key, place.s3_id)

    async def _start(self, place: Place, checksum: str, caller: Caller, services: Services) -> Any:
        """Make of a complete recording its training; the same one for the same key."""
        started = await self._app.acting_as(caller.token).call(
            "training_start",
            workspace_id=place.named["workspace"],
            title=place.title,
            object_key=place.key,
            training_id=place.training_id,
            checksum=checksum,
        )
        if started["wake"]:
            await services.waker.wake()
        return await self._read(started["training_id"], caller)

    async def _read(self, value: UUID | str, caller: Caller, column: str = "id") -> Any:
        """A training, if the caller may see it."""
        functions = self._app.acting_as(caller.token)
        found = await functions.select("training_states", (column, f"eq.{value}"))
        return found[0] if found else None

    def _refuse_size(self, size_bytes: int) -> None:
        most = self._app.videos.upload_bytes
        if size_bytes > most:
            raise ApiError(
                413,
                "upload_too_large",
                f"A file has at most {most} bytes, this one {size_bytes}",
                detail={"max_bytes": most},
            )

    @contextmanager
    def _storage(self) -> Iterator[Uploads]:
        """The process's uploads, and their errors as the API's."""
        try:
            yield self._app.uploads
        except ConfigurationError as error:
            raise ApiError(503, "not_configured", "This deployment takes no uploads") from error
        except UploadNotFound as error:
            raise not_found("upload") from error
        except UploadIncomplete as error:
            missing = list(error.missing[:1000])
            raise ApiError(
                409, "upload_incomplete", str(error), detail={"missing": missing}
            ) from error
        except StorageUnavailable as error:
            raise unavailable("The file store did not answer") from error


def _answer(place: Place, *, missing: tuple[int, ...], training: Any = None) -> Upload:
    return Upload(
        id=place.encode(),
        key=place.key,
        title=place.title,
        size_bytes=place.size_bytes,
        part_bytes=place.cut.part_bytes,
        part_count=place.cut.count,
        complete=training is not None,
        missing=missing,
        training=training,
    )


async def _place(upload_id: str, caller: Caller, services: Services) -> Place:
    """The upload of an id, if it is the caller's."""
    try:
        place = Place.decode(upload_id)
        is_owner = place.named["owner"] == str(caller.subject)
    except ValueError as error:
        raise not_found("upload") from error
    member = ("id", f"eq.{place.named['workspace']}")
    if not is_owner or not await services.queue_of(caller).select("workspaces", member):
        raise not_found("upload")
    return place


def _title(filename: str) -> str:
    """What people call a file: its name without ending and dashes."""
    stem = PurePosixPath(filename.replace("\\", "/")).stem
    words = " ".join(re.sub(r"[-_\s]+", " ", stem).split())
    return (words[:1].upper() + words[1:])[:200] or "File"


def _safe_name(filename: str) -> str:
    """The last part of a key, in characters that need no escaping anywhere."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")
    return name[-NAME_CHARACTERS:] or "file"
