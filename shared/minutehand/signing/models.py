"""What a signed statement holds, and what the database says of a chain and its key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from minutehand.signing.canonical import EXACT

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Instant = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
    ),
]
#: Something beside blanks; written so that Python, JSON Schema and Postgres read it alike.
VISIBLE = r"[^ \t\n\r]"
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=VISIBLE)]

MAX_CHILDREN = 1000


class Strict(BaseModel):
    """A model that takes nothing it does not know, and no value of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Row(BaseModel):
    """What others wrote; members that are not named do not matter."""

    model_config = ConfigDict(frozen=True)


class ChainHashes(Strict):
    """What a statement vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    previous: Digest | None = Field(
        description="Of the workspace's receipt before this one, whole; null for the first."
    )


class Signed(Strict):
    """What every signed statement holds."""

    id: Id
    workspace_id: Id
    number: Annotated[int, Field(ge=1, le=EXACT)]
    job_id: Id
    issued_at: Instant
    software: ShortText
    key_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{86}$")]
    hashes: ChainHashes


class JobHashes(ChainHashes):
    """What a job's receipt vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    payload: Digest
    result: Digest


class ChildOfJob(Strict):
    """A child as its parent's receipt states it."""

    job_id: Id
    job_type: str
    status: str
    receipt: Digest | None = Field(description="Of its whole receipt; null when it has none.")


class OfJob(Signed):
    """A signed statement of how a job ended; it closes over all its children."""

    job_type: str
    parent_id: Id | None
    created_at: Instant
    children: Annotated[list[ChildOfJob], Field(max_length=MAX_CHILDREN)]


class Receipt(OfJob):
    """The signed statement of what a job's processor returned."""

    format: Literal["minutehand-receipt/1"]
    attempt: Annotated[int, Field(ge=1)]
    hashes: JobHashes


class ClosingHashes(ChainHashes):
    """What a closing receipt vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    payload: Digest | None = Field(description="Null where JSON does not keep its numbers exact.")
    result: Digest = Field(description="Of the error's message, or of null.")


class Closing(OfJob):
    """The signed statement that a job ended without a result, and what became of its children."""

    format: Literal["minutehand-closing/1"]
    attempt: Annotated[int, Field(ge=0)]
    finished_at: Instant
    status: Literal["failed", "cancelled"]
    reason: str | None = Field(description="Such as attempts_spent; null where there is none.")
    asked: Annotated[int, Field(ge=0, description="How many children it had.")]
    reached: Annotated[int, Field(ge=0, description="How many of them completed.")]
    failed: Annotated[int, Field(ge=0, description="How many of them did not.")]
    hashes: ClosingHashes


class SealedKey(Row):
    """The current signing key, its private half sealed."""

    kid: str
    x: str
    sealed: str = Field(repr=False)


class Head(Row):
    """The end of a workspace's chain of receipts."""

    number: int
    digest: str | None


class Issued(Row):
    """What became of a signed statement: stored, or to be signed again after `head`."""

    issued: bool
    receipt: dict[str, Any] | None = None
    head: Head | None = None


class Unsigned(Issued):
    """What the database states, to be signed; `issued` when that was done before."""

    stated: dict[str, Any] = Field(default_factory=dict)
    payload: Any = None
    result: Any = None
    key: SealedKey | None = None
    now: AwareDatetime | None = None


def first_problem(error: ValidationError, whole: str = "the document") -> str:
    """The first thing wrong with a value, and where; `whole` names the value itself."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"
