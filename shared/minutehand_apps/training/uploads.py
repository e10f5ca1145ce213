"""The routes for uploads: create, sign parts, complete, abort and resume.

The id of an upload contains its key and its owner, so that only S3 stores an upload. Completing a
recording creates the training and its jobs in one transaction.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from minutehand.config import ConfigurationError
from minutehand.queue import ProcessorError
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
from minutehand_apps.training.bucket import KEY, NAME_CHARACTERS, URL_SECONDS, NotStored
from minutehand_apps.training.models import TrainingState
from minutehand_apps.training.parts import MAX_BYTES, Plan, plan, read_checksum
from minutehand_apps.training.services import Training

#: Maximum number of parts signed per request.
MAX_SIGNED = 100
#: Maximum size of a file that is checked when it is completed. The worker checks larger files.
CHECKED_BYTES = 256 * 1024 * 1024
CHECKSUM = "x-amz-checksum-sha256"

Title = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
UploadId = Annotated[str, Path(max_length=4096)]
_MEDIA_TYPE = r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$"


def _parse_file_checksum(text: str) -> str:
    """Normalise a file's checksum, `<hex>` of the whole or `<hex>-<parts>` of its checksums."""
    digest, dash, count = text.partition("-")
    if dash and not re.fullmatch("[0-9]{1,5}", count):
        raise ValueError("the number of parts must follow the dash")
    return f"{base64.b64decode(read_checksum(digest)).hex()}{dash}{count}"


class CreateUpload(Body):
    """A recording to upload."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE)]
    size: Annotated[int, Field(strict=True, ge=0)]
    workspace_id: UUID | None = Field(
        default=None, description="May be omitted by members of a single workspace."
    )
    title: Title | None = Field(default=None, description="Title. Default: the name of the file.")
    training_id: UUID | None = Field(
        default=None, description="Id for the training. Default: a new id."
    )


class PartToSign(Body):
    """A part to send, and its checksum."""

    part_number: Annotated[int, Field(strict=True, ge=1)]
    checksum: Annotated[
        str,
        AfterValidator(read_checksum),
        Field(max_length=64, description="SHA-256, base64 or hexadecimal."),
    ]


class SignParts(Body):
    """Parts to sign."""

    parts: Annotated[tuple[PartToSign, ...], Field(min_length=1, max_length=MAX_SIGNED)]


class CompleteUpload(Body):
    """Checksum of the whole file."""

    checksum: Annotated[
        str,
        AfterValidator(_parse_file_checksum),
        Field(
            max_length=80,
            description="SHA-256 of the file, hexadecimal or base64, or `<hash>-<parts>`: the"
            " SHA-256 of its parts' checksums, and the number of parts.",
        ),
    ]


class SignedPart(BaseModel):
    """URL, exact size and headers for the PUT of one part."""

    part_number: int
    url: str
    size_bytes: int
    headers: dict[str, str]


class SignedParts(BaseModel):
    """URLs to which the parts are PUT."""

    parts: tuple[SignedPart, ...]
    expires_in_seconds: int


class Upload(BaseModel):
    """An upload, its missing parts, and the training created from it."""

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
    """Content of an upload's id. Its holder may have changed any of it."""

    model_config = ConfigDict(frozen=True)

    key: str
    #: Id at S3. An empty id would turn a call for the upload into a call for the object.
    s3_id: Annotated[str, Field(pattern="^[!-~]{1,1024}$")]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    title: Title
    #: Id for the training.
    training_id: UUID | None = None

    @property
    def cut(self) -> Plan:
        """Division of the file into parts."""
        return plan(self.size_bytes)

    @property
    def named(self) -> re.Match[str]:
        """Workspace and owner in the key. Raises ValueError if the key is not an upload's key."""
        if (named := KEY.fullmatch(self.key)) is None:
            raise ValueError("not the key of an upload")
        return named

    def encode(self) -> str:
        """Encode the upload's id, URL-safe."""
        raw = self.model_dump_json(exclude_none=True).encode()
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def decode(cls, upload_id: str) -> Self:
        """Decode an id.

        Raises:
            ValueError: The id was not created here.
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
        """Start an upload of a recording of an allowed type and size."""
        content_type, accepted = body.content_type, self._app.upload_types
        is_accepted = content_type in accepted or any(
            fnmatch(content_type, pattern) for pattern in accepted
        )
        if not is_accepted:
            raise ApiError(
                415,
                "upload_type_refused",
                f"Files of type {content_type} are not accepted",
                detail={"allowed": list(accepted)},
            )
        self._refuse_size(body.size)
        if body.size == 0:
            raise ApiError(422, "empty_file", "The file is empty")
        training_id = body.training_id
        # Checked before the bytes are sent, because completing the upload would fail.
        if training_id is not None and await self._read(training_id, caller) is not None:
            raise ApiError(409, "training_exists", "This training already has a recording")
        workspace_id = await services.queue_of(caller).workspace(body.workspace_id)
        key = (
            f"workspaces/{workspace_id}/{caller.subject}/{uuid.uuid4()}/{_safe_name(body.filename)}"
        )
        with storage():
            s3_id = await self._app.bucket.create(key, content_type=content_type)
        token = UploadToken(
            key=key,
            s3_id=s3_id,
            size_bytes=body.size,
            title=body.title or _title_of_file(body.filename),
            training_id=training_id,
        )
        return _answer(token, missing=token.cut.missing(()))

    async def get_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> Upload:
        """Return the missing parts, to resume an upload, or the training of a complete upload."""
        token = await _decode_token(upload_id, caller, services)
        bucket = self._app.bucket
        with storage():
            try:
                arrived = await bucket.parts(token.key, token.s3_id)
            except NotStored:
                if await bucket.find_size(token.key) != token.size_bytes:
                    raise
                training = await self._read(token.key, caller, "object_key")
                return _answer(token, missing=(), training=training)
        return _answer(token, missing=token.cut.missing(arrived))

    async def sign_parts(
        self, upload_id: UploadId, body: SignParts, caller: SignedIn, services: Provided
    ) -> SignedParts:
        """Return URLs for parts, each valid only for the bytes with its checksum.

        Clients request further URLs as needed.
        """
        token = await _decode_token(upload_id, caller, services)
        # Checked again, because the caller could change the id.
        self._refuse_size(token.size_bytes)
        checksums = {part.part_number: part.checksum for part in body.parts}
        if max(checksums) > token.cut.count:
            raise invalid_argument(
                "parts", f"contains part {max(checksums)}, but there are only {token.cut.count}"
            )
        with storage():
            urls = await self._app.bucket.sign(token.key, token.s3_id, token.cut, checksums)
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

    async def complete_upload(
        self, upload_id: UploadId, body: CompleteUpload, caller: SignedIn, services: Provided
    ) -> Upload:
        """Join the parts, check the file, and create the training. Repeating the call is harmless.

        Returns 409 with the missing parts if some have not arrived, and 422 `checksum_mismatch` if
        the file differs, which deletes it. The worker checks larger files.
        """
        token = await _decode_token(upload_id, caller, services)
        bucket = self._app.bucket
        with storage():
            if missing := await bucket.join(token.key, token.s3_id, token.cut):
                text, detail = (
                    f"{len(missing)} part(s) have not arrived",
                    {"missing": missing[:1000]},
                )
                raise ApiError(409, "upload_incomplete", text, detail=detail)
            is_checked = token.size_bytes <= CHECKED_BYTES
            if is_checked and not (await bucket.fetch(token.key)).matches(body.checksum):
                await bucket.call("delete_object", Key=token.key)
                raise ApiError(
                    422,
                    "checksum_mismatch",
                    "The uploaded file differs from the file that was sent. Upload it again.",
                )
        training = await self._start(token, body.checksum, caller, services)
        return _answer(token, missing=(), training=training)

    async def abort_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> None:
        """Abort an upload and delete its parts. A complete file stays."""
        token = await _decode_token(upload_id, caller, services)
        with storage(), suppress(NotStored):
            await self._app.bucket.call(
                "abort_multipart_upload", Key=token.key, UploadId=token.s3_id
            )

    async def _start(
        self, token: UploadToken, checksum: str, caller: Caller, services: Services
    ) -> Any:
        """Create the training of a complete recording. The same key gives the same training."""
        started = await self._app.acting_as(caller.token).call(
            "training_start",
            workspace_id=token.named["workspace"],
            title=token.title,
            object_key=token.key,
            training_id=token.training_id,
            checksum=checksum,
        )
        if started["wake"]:
            await services.waker.wake()
        return await self._read(started["training_id"], caller)

    async def _read(self, value: UUID | str, caller: Caller, column: str = "id") -> Any:
        """Read a training, or return None if the caller may not see it."""
        functions = self._app.acting_as(caller.token)
        rows = await functions.select("training_states", (column, f"eq.{value}"))
        return rows[0] if rows else None

    def _refuse_size(self, size_bytes: int) -> None:
        limit = self._app.upload_bytes
        if size_bytes > limit:
            raise ApiError(
                413,
                "upload_too_large",
                f"A file has at most {limit} bytes, but this one has {size_bytes}",
                detail={"max_bytes": limit},
            )


@contextmanager
def storage() -> Iterator[None]:
    """Convert the bucket's errors to the API's."""
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


async def _decode_token(upload_id: str, caller: Caller, services: Services) -> UploadToken:
    """Decode an upload's id, and check that the upload belongs to the caller."""
    try:
        token = UploadToken.decode(upload_id)
        is_owner = token.named["owner"] == str(caller.subject)
    except ValueError as error:
        raise not_found("upload") from error
    member = ("id", f"eq.{token.named['workspace']}")
    if not is_owner or not await services.queue_of(caller).select("workspaces", member):
        raise not_found("upload")
    return token


def _title_of_file(filename: str) -> str:
    """Convert a file name to a title, without its ending and dashes."""
    stem = PurePosixPath(filename.replace("\\", "/")).stem
    words = " ".join(re.sub(r"[-_\s]+", " ", stem).split())
    return (words[:1].upper() + words[1:])[:200] or "File"


def _safe_name(filename: str) -> str:
    """Convert a file name to the last part of a key, with characters that need no escaping."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")
    return name[-NAME_CHARACTERS:] or "file"
