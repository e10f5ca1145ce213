"""A receipt with what it vouches for, as it travels; apart, as the status function imports it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class JobBundle(BaseModel):
    """A job's receipt with what it vouches for and its children's receipts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["minutehand-bundle/1"] = "minutehand-bundle/1"
    receipt: dict[str, Any] = Field(description="As it was signed.")
    payload: Any = Field(default=None, description="Absent once the job is deleted.")
    result: Any = Field(default=None, description="Of a closing receipt the error's message.")
    children: list[dict[str, Any]] = Field(
        default_factory=list, description="The children's own receipts, as they were signed."
    )
