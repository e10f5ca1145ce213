"""Upload routes: begin, sign parts, complete, abort and resume a file of any size, for any app.

An upload's id names its place and its owner; nothing about it is kept but in S3. What an app takes
and what a complete file becomes, in one transaction, it says by extending `UploadRoutes`.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Annotated, Any, Self
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

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
    read_checksum,
)
from minutehand.config import ConfigurationError
from minutehand.web.auth import SignedIn
from minutehand.web.bodies import Body
from minutehand.web.caller import Caller
from minutehand.web.errors import ApiError, invalid_argument, not_found, unavailable
from minutehand.web.services import Provided, Services

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


class NewUpload(Body):
    """A file to upload."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    content_type: Annotated[str, Field(pattern=_MEDIA_TYPE)]
    size: Annotated[int, Field(strict=True, ge=0)]
    workspace_id: UUID | None = Field(
        default=None, description="May be omitted by members of a single workspace."
    )
    title: Title | None = Field(
        default=None, description="What it is called; after its file if omitted."
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
    """An upload and what has arrived of it."""

    id: str
    key: str = Field(description="The object's name.")
    title: str
    size_bytes: int
    part_bytes: int
    part_count: int
    complete: bool = False
    missing: tuple[int, ...] = Field(description="Numbers of the parts yet to send.")


class Place(BaseModel):
    """What an upload's id says; its holder may have written any of it."""

    model_config = ConfigDict(frozen=True)

    key: str
    #: S3's id; an empty one would make a call about the upload one about the object.
    s3_id: Annotated[str, Field(pattern="^[!-~]{1,1024}$")]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BYTES)]
    title: Title
    #: The id that what it becomes is to have, for an app that lets callers choose it.
    wanted_id: UUID | None = None

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


class UploadRoutes(ABC):
    """The routes below a prefix: to be extended by an app.

    Attributes:
        answer: `Upload`, extended by fields for what a complete file became.
        media_types: What is taken, as `video/*` or `text/csv`.
        most_bytes: The largest file, at most `MAX_BYTES` of aws/uploads.py.
    """

    answer: type[Upload] = Upload
    media_types: tuple[str, ...] = ("*/*",)
    most_bytes: int = MAX_BYTES

    @abstractmethod
    async def on_complete(
        self, place: Place, checksum: str, caller: Caller, services: Services
    ) -> dict[str, Any]:
        """Make of a complete file what it becomes, in one transaction; gives fields of `answer`.

        Called by each completion, so also for a file that became it before: `place.key` is its
        idempotency key. The caller is a member of `place.named["workspace"]` and its owner.

        Args:
            checksum: `<hex>` of the SHA-256 over the file, or `<hex>-<parts>` over its parts';
                it was compared only for files up to CHECKED_BYTES.
        """

    async def find(self, place: Place, caller: Caller, services: Services) -> dict[str, Any] | None:
        """What a complete file became, as `on_complete` answered; None while it became nothing."""
        return {}

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add, answer = router.add_api_route, self.answer
        add("", self.create_upload, methods=["POST"], status_code=201, response_model=answer)
        add("/{upload_id}", self.get_upload, methods=["GET"], response_model=answer)
        add("/{upload_id}/parts", self.sign_parts, methods=["POST"])
        add("/{upload_id}/complete", self.complete_upload, methods=["POST"], response_model=answer)
        add("/{upload_id}", self.abort_upload, methods=["DELETE"], status_code=204)

    async def create_upload(self, body: NewUpload, caller: SignedIn, services: Provided) -> Upload:
        """Begin an upload of a file, of an allowed type and size."""
        return await self.begin(body, caller, services)

    async def begin(
        self, body: NewUpload, caller: Caller, services: Services, *, wanted_id: UUID | None = None
    ) -> Upload:
        """Begin an upload, for routes that take more fields than `NewUpload` has."""
        kind = body.content_type
        if not any(kind == each or fnmatch(kind, each) for each in self.media_types):
            raise ApiError(
                415,
                "upload_type_refused",
                f"Files of type {kind} are not taken",
                detail={"allowed": list(self.media_types)},
            )
        self._refuse_size(body.size)
        if body.size == 0:
            raise ApiError(422, "empty_file", "The file is empty")
        workspace_id = await services.queue_of(caller).workspace(body.workspace_id)
        key = (
            f"workspaces/{workspace_id}/{caller.subject}/{uuid.uuid4()}/{_safe_name(body.filename)}"
        )
        with _storage(services) as uploads:
            s3_id = await uploads.create(key, content_type=kind)
        place = Place(
            key=key,
            s3_id=s3_id,
            size_bytes=body.size,
            title=body.title or _title(body.filename),
            wanted_id=wanted_id,
        )
        return self._answer(place, missing=place.cut.missing(()))

    async def get_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> Upload:
        """What has arrived, to resume an upload after a break, and what it became."""
        place = await _place(upload_id, caller, services)
        with _storage(services) as uploads:
            try:
                arrived = await uploads.parts(place.key, place.s3_id)
            except UploadNotFound:
                if await uploads.size_of(place.key) != place.size_bytes:
                    raise
                became = await self.find(place, caller, services)
                return self._answer(place, missing=(), became=became)
        return self._answer(place, missing=place.cut.missing(arrived))

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
        with _storage(services) as uploads:
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
        with _storage(services) as uploads:
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
        became = await self.on_complete(place, body.checksum, caller, services)
        return self._answer(place, missing=(), became=became)

    async def abort_upload(self, upload_id: UploadId, caller: SignedIn, services: Provided) -> None:
        """Abort an upload and delete its parts; a complete file stays."""
        place = await _place(upload_id, caller, services)
        with _storage(services) as uploads:
            await uploads.abort(place.key, place.s3_id)

    def _answer(
        self, place: Place, *, missing: tuple[int, ...], became: dict[str, Any] | None = None
    ) -> Upload:
        return self.answer(
            id=place.encode(),
            key=place.key,
            title=place.title,
            size_bytes=place.size_bytes,
            part_bytes=place.cut.part_bytes,
            part_count=place.cut.count,
            complete=became is not None,
            missing=missing,
            **(became or {}),
        )

    def _refuse_size(self, size_bytes: int) -> None:
        if size_bytes > self.most_bytes:
            raise ApiError(
                413,
                "upload_too_large",
                f"A file has at most {self.most_bytes} bytes, this one {size_bytes}",
                detail={"max_bytes": self.most_bytes},
            )


@contextmanager
def _storage(services: Services) -> Iterator[Uploads]:
    """The process's uploads, and their errors as the API's."""
    try:
        yield services.provide(Uploads, lambda: Uploads(services.settings))
    except ConfigurationError as error:
        raise ApiError(503, "not_configured", "This deployment takes no uploads") from error
    except UploadNotFound as error:
        raise not_found("upload") from error
    except UploadIncomplete as error:
        raise ApiError(
            409, "upload_incomplete", str(error), detail={"missing": list(error.missing[:1000])}
        ) from error
    except StorageUnavailable as error:
        raise unavailable("The file store did not answer") from error


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
