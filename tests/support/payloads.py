"""Payloads of job types that a test makes up, and a processor that does nothing."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from minutehand.worker import Job, JobContext


class Nothing(BaseModel):
    """A payload without content."""


class Number(BaseModel):
    """A payload with one number."""

    number: int


async def nothing(job: Job[Any], ctx: JobContext) -> None:
    """Do nothing."""
