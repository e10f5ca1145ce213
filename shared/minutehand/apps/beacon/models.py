"""Specs, payloads of jobs, receipts and bundles, as they are written and read.

The rules a spec must keep stand in SQL; here are its shape, its defaults and its bounds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from minutehand.apps.beacon.statistics import Verdict

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Region = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Outcome = Literal["completed", "partial", "failed"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Exact(BaseModel):
    """A model that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(Exact):
    """The provider endpoint: what each sample asks."""

    url: Annotated[str, Field(max_length=2000)] = Field(
        description="https, with neither a private host nor a user name."
    )
    method: Method = "GET"
    headers: dict[str, str] = Field(
        default_factory=dict, description="Without secrets: a spec is shown with its receipts."
    )
    body: str | None = Field(default=None, max_length=65536)


class Thresholds(Exact):
    """What each region must keep; null asks for nothing."""

    p95_ms: int | None = Field(default=None, ge=1, le=60000)
    error_rate: float | None = Field(default=None, ge=0, le=1, description="At most 4 decimals.")


class Spec(Exact):
    """What to measure."""

    target: Target
    regions: Annotated[list[Region], Field(min_length=1, max_length=20)]
    samples: int = Field(default=50, ge=1, le=2000, description="Per region.")
    warm_up: int = Field(default=2, ge=0, le=20, description="Requests before, not counted.")
    concurrency: int = Field(default=4, ge=1, le=20, description="Requests at once, per region.")
    timeout_ms: int = Field(default=5000, ge=100, le=30000, description="From name to last byte.")
    connection: Literal["reuse", "new"] = Field(
        default="reuse", description="new: each sample opens a connection of its own."
    )
    thresholds: Thresholds = Field(default_factory=Thresholds)


class MeasurePayload(BaseModel):
    """Payload of `beacon_measure`, which people and schedules may enqueue."""

    spec: Annotated[str, Field(min_length=1, max_length=100, description="A spec's name.")]


class RunPayload(BaseModel):
    """Payload of `beacon_run`."""

    run_id: UUID


class RegionPayload(BaseModel):
    """Payload of `beacon_region`."""

    run_id: UUID
    region: str


class SealedKey(BaseModel):
    """The current signing key, its private half sealed."""

    model_config = ConfigDict(frozen=True)

    kid: str
    x: str
    sealed: str = Field(repr=False)


class Head(BaseModel):
    """The end of a workspace's chain."""

    model_config = ConfigDict(frozen=True)

    number: int
    digest: str | None


class StoredSpec(BaseModel):
    """A spec as it is stored."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    workspace_id: UUID
    name: str
    version: int
    spec: dict[str, Any]
    digest: Digest
    created_by: UUID | None = None
    created_at: AwareDatetime


class StoredReceipt(BaseModel):
    """A receipt as it is stored, without its samples."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    workspace_id: UUID
    number: int = Field(description="Its place in the workspace's chain, from 1, without gaps.")
    run_id: UUID
    region: str | None = Field(description="null for the run's own receipt.")
    job_id: UUID
    digest: Digest = Field(description="SHA-256 over the text of jws.")
    previous: Digest | None
    kid: str
    payload: dict[str, Any]
    jws: str = Field(description="The receipt itself: a compact JWS.")
    issued_at: AwareDatetime


class Run(BaseModel):
    """A run's row, as a job reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: UUID
    workspace_id: UUID
    regions: list[str]
    outcome: Outcome | None
    created_at: AwareDatetime


class Loaded(BaseModel):
    """What a leased job works on; `run` is None when it is gone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: Run | None
    spec: StoredSpec | None = None
    key: SealedKey | None = None
    head: Head | None = None
    over: str | None = Field(default=None, description="Why a region is not measured any more.")
    private_addresses: bool = False
    requests_per_second: float = Field(default=1.0, gt=0, description="This region's share.")
    receipts: list[StoredReceipt] = Field(default_factory=list)


class Issued(BaseModel):
    """What became of a signed receipt: stored, or to be signed again after `head`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    issued: bool
    receipt: StoredReceipt | None = None
    head: Head | None = None


Instant = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
Count = Annotated[int, Field(ge=0)]


class Statement(BaseModel):
    """What every receipt states."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    workspace_id: Id
    run_id: Id
    job_id: Id
    attempt: Annotated[int, Field(ge=1)]
    spec_name: Text
    spec_version: Annotated[int, Field(ge=1)]
    spec_digest: Digest
    started_at: Instant
    ended_at: Instant
    issued_at: Instant
    verdict: Verdict
    number: Annotated[int, Field(ge=1)]
    previous: Digest | None
    software: Text


class Latency(Exact):
    """Latencies of the successes in µs; percentiles by nearest rank, the mean rounded down."""

    min: Count
    mean: Count
    max: Count
    p50: Count
    p75: Count
    p90: Count
    p95: Count
    p99: Count


class Statistics(Exact):
    """Counts, and latencies where something succeeded."""

    count: Count
    errors: Count
    outcomes: dict[str, Count]
    latency_us: Latency | None


class SamplesStated(Exact):
    """How many samples there are, and the digest of their columns."""

    count: Count
    digest: Digest


class RegionStatement(Statement):
    """The payload of a region's receipt."""

    type: Literal["beacon.region/1"]
    region_requested: Region
    measured_from: Text
    samples: SamplesStated
    statistics: Statistics


class RegionStated(Exact):
    """A region of a run: its receipt's digest, or that there is none."""

    region: Region
    status: Literal["completed", "failed"]
    receipt: Digest | None = None


class RunStatement(Statement):
    """The payload of a run's receipt."""

    type: Literal["beacon.run/1"]
    outcome: Outcome
    regions: list[RegionStated]


class BundledReceipt(Exact):
    """A receipt in a bundle; a region's may bring its samples."""

    jws: Annotated[str, Field(max_length=32000)]
    samples: dict[str, Any] | None = None


class Bundle(Exact):
    """What is handed to somebody who is to verify a run without asking anybody."""

    format: Literal["minutehand-beacon-bundle/1"] = "minutehand-beacon-bundle/1"
    spec: dict[str, Any] | None = Field(default=None, description="The text the digest is of.")
    receipts: Annotated[list[BundledReceipt], Field(min_length=1, max_length=1000)]
