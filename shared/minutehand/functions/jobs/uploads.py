"""Upload routes: a member begins, signs parts, completes, aborts and resumes an upload.

An upload's id names its place and its owner; nothing about it is kept but in S3.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from minutehand.aws.uploads import (
    KEY,
    MAX_BYTES,
    NAME_CHARACTERS,
    URL_LIFETIME,
    Plan,
    StorageUnavailable,
    UploadIncomplete,
    UploadNotFound,
    Uploads,
    plan,
)
from minutehand.config import ConfigurationError
from minutehand.functions.jobs.models import Body
from minutehand.web import paging
from minutehand.web.auth import Caller, SignedIn
from minutehand.web.errors import ApiError, invalid_argument, not_found, unavailable
from minutehand.web.services import Provided, Services

router = APIRouter(prefix="/api/uploads", tags=["uploads"])

#: Parts signed in one answer.
MAX_SIGNED = 100

UploadId = Annotated[str, Path(max_length=2048)]
#: An empty one would make a call about the upload one about the object.
_S3_ID = re.compile(r"[!-~]{1,1024}")
_MEDIA_TYPE = r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$"


class CreateUpload(Body):
    """A file to upload."""

    workspace_id: UUID
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE)]
    size_bytes: Annotated[int, Field(strict=True, ge=0, le=MAX_BYTES)]


class SignParts(Body):
    """Which parts to sign."""

    part_numbers: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1)], ...],
        Field(min_length=1, max_length=MAX_SIGNED),
    ]


class SignedPart(BaseModel):
    """Where to PUT one part, and exactly how many bytes of it."""

    part_number: int
    url: str
    size_bytes: int


class SignedParts(BaseModel):
    """URLs to PUT parts to."""

    parts: tuple[SignedPart, ...]
    expires_in_seconds: int


class Upload(BaseModel):
    """An upload and what has arrived of it."""

    id: str
    key: str = Field(description="The object's name; put it into a job's payload.")
    size_bytes: int
    part_bytes: int
    part_count: int
    complete: bool = False
    missing: tuple[int, ...] = Field(description="Numbers of the parts yet to send.")


@dataclass(frozen=True)
class Place:
    """What an upload's id stands for."""

    key: str
    upload_id: str
    cut: Plan


@router.post("", status_code=201)
async def create_upload(body: CreateUpload, caller: SignedIn, services: Provided) -> Upload:
    """Begin an upload into a workspace of the caller's."""
    if not await services.queue_of(caller).is_member(str(body.workspace_id)):
        raise not_found("workspace")
    cut = plan(body.size_bytes)
    name = _safe_name(body.filename)
    key = f"workspaces/{body.workspace_id}/{caller.subject}/{uuid.uuid4()}/{name}"
    with _answering():
        upload_id = await uploads_of(services).create(key, content_type=body.content_type)
    place = Place(key, upload_id, cut)
    return _upload(place, missing=tuple(range(1, cut.count + 1)))


@router.get("/{upload_id}")
async def get_upload(upload_id: UploadId, caller: SignedIn, services: Provided) -> Upload:
    """What has arrived, to resume an upload after a break."""
    place = await _place(upload_id, caller, services)
    uploads = uploads_of(services)
    with _answering():
        try:
            arrived = await uploads.parts(place.key, place.upload_id)
        except UploadNotFound:
            if await uploads.size_of(place.key) != place.cut.size_bytes:
                raise
            return _upload(place, missing=(), complete=True)
    return _upload(place, missing=place.cut.missing(arrived))


@router.post("/{upload_id}/parts")
async def sign_parts(
    upload_id: UploadId, body: SignParts, caller: SignedIn, services: Provided
) -> SignedParts:
    """URLs for parts; ask for more as they are needed."""
    place = await _place(upload_id, caller, services)
    beyond = [number for number in body.part_numbers if number > place.cut.count]
    if beyond:
        raise invalid_argument("part_numbers", f"names part {beyond[0]} of {place.cut.count}")
    with _answering():
        urls = await uploads_of(services).sign(
            place.key, place.upload_id, place.cut, body.part_numbers
        )
    return SignedParts(
        parts=tuple(
            SignedPart(part_number=number, url=url, size_bytes=place.cut.bytes_of(number))
            for number, url in urls.items()
        ),
        expires_in_seconds=int(URL_LIFETIME.total_seconds()),
    )


@router.post("/{upload_id}/complete")
async def complete_upload(upload_id: UploadId, caller: SignedIn, services: Provided) -> Upload:
    """Join the parts; 409 with the missing ones when some have not arrived."""
    place = await _place(upload_id, caller, services)
    with _answering():
        await uploads_of(services).complete(place.key, place.upload_id, place.cut)
    return _upload(place, missing=(), complete=True)


@router.delete("/{upload_id}", status_code=204)
async def abort_upload(upload_id: UploadId, caller: SignedIn, services: Provided) -> None:
    """Throw away what has arrived; a complete file stays."""
    place = await _place(upload_id, caller, services)
    with _answering():
        await uploads_of(services).abort(place.key, place.upload_id)


def uploads_of(services: Services) -> Uploads:
    """The process's uploads.

    Raises:
        ApiError: 503, this deployment has no bucket.
    """
    try:
        return services.provide(Uploads, lambda: Uploads(services.settings))
    except ConfigurationError as error:
        raise ApiError(503, "not_configured", "This deployment takes no uploads") from error


@contextmanager
def _answering() -> Iterator[None]:
    """Storage's errors as the API's."""
    try:
        yield
    except UploadNotFound as error:
        raise not_found("upload") from error
    except UploadIncomplete as error:
        raise ApiError(
            409, "upload_incomplete", str(error), detail={"missing": list(error.missing[:1000])}
        ) from error
    except StorageUnavailable as error:
        raise unavailable("The file store did not answer") from error


async def _place(upload_id: str, caller: Caller, services: Services) -> Place:
    """The place an id stands for, if it is the caller's own and still theirs to fill."""
    try:
        key, s3_id, size_bytes = paging.decode(upload_id, str, str, int)
        cut = plan(size_bytes)
    except (ApiError, ValueError) as error:
        raise not_found("upload") from error
    named = KEY.fullmatch(key)
    if named is None or not _S3_ID.fullmatch(s3_id) or named["owner"] != str(caller.subject):
        raise not_found("upload")
    if not await services.queue_of(caller).is_member(named["workspace"]):
        raise not_found("upload")
    return Place(key, s3_id, cut)


def _upload(place: Place, *, missing: tuple[int, ...], complete: bool = False) -> Upload:
    return Upload(
        id=paging.encode(place.key, place.upload_id, place.cut.size_bytes),
        key=place.key,
        size_bytes=place.cut.size_bytes,
        part_bytes=place.cut.part_bytes,
        part_count=place.cut.count,
        complete=complete,
        missing=missing,
    )


def _safe_name(filename: str) -> str:
    """The last part of a key, in characters that need no escaping anywhere."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")
    return name[-NAME_CHARACTERS:] or "file"
