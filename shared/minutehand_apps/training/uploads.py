"""The routes for uploads, which create an upload, sign its parts, complete, abort and resume it.

The id of an upload contains its key and its owner, so that only S3 stores the upload. The
completion of a recording creates the training and its jobs in one transaction.
"""

import base64
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from minutehand.config import ConfigurationError
from minutehand.queue import CallerFunctions, ProcessorError
from minutehand.web import (
    ApiError,
    Body,
    Provided,
    SignedIn,
    UserFunctions,
    invalid_argument,
    not_found,
    unavailable,
)
from minutehand_apps.training.bucket import KEY, NAME_CHARACTERS, URL_SECONDS, NotStored
from minutehand_apps.training.models import TrainingState
from minutehand_apps.training.parts import MAX_BYTES, Plan, plan
from minutehand_apps.training.services import Training

#: Maximum number of parts that one request can sign.
MAX_SIGNED = 100
CHECKSUM = "x-amz-checksum-sha256"

Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
_MEDIA_TYPE = r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$"


class CreateUpload(Body):
    """A recording that the caller wants to upload."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE)]
    size: Annotated[int, Field(strict=True, ge=0)]
    workspace_id: UUID | None = Field(
        default=None, description="May be omitted by members of a single workspace."
    )
    title: Title | None = Field(default=None, description="Title. Default: the name of the file.")


class PartToSign(Body):
    """A part to upload, with its checksum."""

    part_number: Annotated[int, Field(strict=True, ge=1)]
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256, hexadecimal.")]


class SignParts(Body):
    """The parts for which URLs are requested."""

    parts: Annotated[tuple[PartToSign, ...], Field(min_length=1, max_length=MAX_SIGNED)]


class CompleteUpload(Body):
    """The checksum of the whole file."""

    checksum: Annotated[
        str,
        Field(
            pattern="^[0-9a-f]{64}(-[0-9]{1,5})?$",
            description="SHA-256 of the file, hexadecimal, or `<hash>-<parts>`: the SHA-256 of"
            " its parts' checksums, and the number of parts.",
        ),
    ]


class SignedPart(BaseModel):
    """URL, exact size and headers for the PUT request with one part."""

    part_number: int
    url: str
    size_bytes: int
    headers: dict[str, str]


class SignedParts(BaseModel):
    """URLs for the PUT requests with the parts."""

    parts: tuple[SignedPart, ...]
    expires_in_seconds: int


class Upload(BaseModel):
    """An upload with its missing parts. After its completion, an upload has a training."""

    id: str
    key: str = Field(description="Key of the object in the bucket.")
    title: str
    size_bytes: int
    part_bytes: int
    part_count: int
    complete: bool = False
    missing: tuple[int, ...] = Field(description="Numbers of the parts that have not arrived.")
    training: TrainingState | None = Field(
        default=None, description="The training of the complete upload, with its jobs."
    )


class UploadToken(BaseModel):
    """The content of an upload's id. The caller may have changed any part of the id."""

    model_config = ConfigDict(frozen=True)

    key: str
    #: Id of the upload at S3. The id is not empty, because S3 would then apply a call to the object
    #: instead of the upload.
    s3_id: Annotated[str, Field(pattern="^[!-~]{1,1024}$")]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    title: Title

    @property
    def cut(self) -> Plan:
        """Division of the file into parts."""
        return plan(self.size_bytes)

    @property
    def named(self) -> re.Match[str]:
        """Workspace and owner that the object's key contains.

        Raises ValueError if the key is not the key of an upload.
        """
        if (named := KEY.fullmatch(self.key)) is None:
            raise ValueError("not the key of an upload")
        return named

    def encode(self) -> str:
        """Encode the id of the upload in characters that a URL may contain."""
        raw = self.model_dump_json().encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, upload_id: str) -> Self:
        """Decode the id of an upload.

        Raises:
            ValueError: This service did not create the id.
        """
        padded = upload_id + "=" * (-len(upload_id) % 4)
        return cls.model_validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))


async def _provided(services: Provided) -> Training:
    return services.provide(Training, lambda: Training(services.settings))


#: The dependencies of the app, as an argument of a route.
App = Annotated[Training, Depends(_provided)]


async def _decode_token(
    upload_id: Annotated[str, Path(max_length=4096)], caller: SignedIn, functions: UserFunctions
) -> UploadToken:
    """Decode the id of an upload, and check that the upload belongs to the caller."""
    try:
        token = UploadToken.decode(upload_id)
        is_owner = token.named["owner"] == str(caller.subject)
    except ValueError as error:
        raise not_found("upload") from error
    member = ("id", f"eq.{token.named['workspace']}")
    if not is_owner or not await functions.select("workspaces", member):
        raise not_found("upload")
    return token


Token = Annotated[UploadToken, Depends(_decode_token)]
routes = APIRouter(prefix="/api/uploads", tags=["uploads"])


@routes.post("", status_code=201)
async def create_upload(
    body: CreateUpload, caller: SignedIn, functions: UserFunctions, app: App
) -> Upload:
    """Start the upload of a recording of an allowed type and size."""
    content_type = body.content_type
    if not any(fnmatch(content_type, pattern) for pattern in app.upload_types):
        raise ApiError(
            415,
            "upload_type_refused",
            f"Files of type {content_type} are not accepted",
            detail={"allowed": list(app.upload_types)},
        )
    _refuse_size(body.size, app)
    if body.size == 0:
        raise ApiError(422, "empty_file", "The file is empty")
    workspace_id = await functions.workspace(body.workspace_id)
    key = f"workspaces/{workspace_id}/{caller.subject}/{uuid.uuid4()}/{_safe_name(body.filename)}"
    with storage():
        s3_id = await app.bucket.create(key, content_type=content_type)
    token = UploadToken(
        key=key,
        s3_id=s3_id,
        size_bytes=body.size,
        title=body.title or PurePath(body.filename).stem.strip()[:200] or "File",
    )
    return _answer(token, missing=token.cut.missing(()))


@routes.get("/{upload_id}")
async def get_upload(token: Token, functions: UserFunctions, app: App) -> Upload:
    """Return the missing parts of an upload, or the training of a completed upload."""
    bucket = app.bucket
    with storage():
        try:
            arrived = await bucket.parts(token.key, token.s3_id)
        except NotStored:
            if await bucket.find_size(token.key) != token.size_bytes:
                raise
            training = await _read(token.key, functions, "object_key")
            return _answer(token, missing=(), training=training)
    return _answer(token, missing=token.cut.missing(arrived))


@routes.post("/{upload_id}/parts")
async def sign_parts(token: Token, body: SignParts, app: App) -> SignedParts:
    """Return URLs for parts. A URL accepts only the bytes with the part's checksum.

    Clients request the URLs for further parts later.
    """
    # check the size again, because the caller can change the upload's id
    _refuse_size(token.size_bytes, app)
    checksums = {
        part.part_number: base64.b64encode(bytes.fromhex(part.checksum)).decode()
        for part in body.parts
    }
    if max(checksums) > token.cut.count:
        raise invalid_argument(
            "parts", f"contains part {max(checksums)}, but there are only {token.cut.count}"
        )
    with storage():
        urls = await app.bucket.sign(token.key, token.s3_id, token.cut, checksums)
    return SignedParts(
        parts=tuple(
            SignedPart(
                part_number=number,
                url=url,
                size_bytes=token.cut.part_size(number),
                headers={CHECKSUM: checksums[number]},
            )
            for number, url in urls.items()
        ),
        expires_in_seconds=URL_SECONDS,
    )


@routes.post("/{upload_id}/complete")
async def complete_upload(
    token: Token, body: CompleteUpload, functions: UserFunctions, services: Provided, app: App
) -> Upload:
    """Join the parts, and create the training. The call may be repeated.

    If parts are missing, the status is 409 and the response lists them. The worker checks the
    checksum.
    """
    with storage():
        if missing := await app.bucket.join(token.key, token.s3_id, token.cut):
            text, detail = (f"{len(missing)} part(s) have not arrived", {"missing": missing[:1000]})
            raise ApiError(409, "upload_incomplete", text, detail=detail)
    # a repeated call with the same key returns the same training
    started = await functions.call(
        "training_start",
        workspace_id=token.named["workspace"],
        title=token.title,
        object_key=token.key,
        checksum=body.checksum,
    )
    if started["wake"]:
        await services.waker.wake()
    training = await _read(started["training_id"], functions)
    return _answer(token, missing=(), training=training)


@routes.delete("/{upload_id}", status_code=204)
async def abort_upload(token: Token, app: App) -> None:
    """Abort an upload, and delete its parts. The file of a completed upload is not deleted."""
    with storage(), suppress(NotStored):
        await app.bucket.call("abort_multipart_upload", Key=token.key, UploadId=token.s3_id)


async def _read(value: UUID | str, functions: CallerFunctions, column: str = "id") -> Any:
    """Read a training. Return None if the caller may not see the training."""
    rows = await functions.select("training_states", (column, f"eq.{value}"))
    return rows[0] if rows else None


def _refuse_size(size_bytes: int, app: Training) -> None:
    limit = app.upload_bytes
    if size_bytes > limit:
        raise ApiError(
            413,
            "upload_too_large",
            f"A file has at most {limit} bytes, but this one has {size_bytes}",
            detail={"max_bytes": limit},
        )


@contextmanager
def storage() -> Iterator[None]:
    """Convert errors of the bucket to errors of the API."""
    try:
        yield
    except ConfigurationError as error:
        raise ApiError(503, "not_configured", "Uploads are not configured") from error
    except NotStored as error:
        raise not_found("upload") from error
    except ProcessorError as error:
        raise unavailable("The file store did not respond") from error


def _answer(token: UploadToken, *, missing: tuple[int, ...], training: Any = None) -> Upload:
    return Upload(
        id=token.encode(),
        key=token.key,
        title=token.title,
        size_bytes=token.size_bytes,
        part_bytes=token.cut.part_bytes,
        part_count=token.cut.count,
        complete=training is not None,
        missing=missing,
        training=training,
    )


def _safe_name(filename: str) -> str:
    """Convert a file name to the last part of a key, of characters that need no escaping."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", filename).strip(".-")
    return name[-NAME_CHARACTERS:] or "file"
