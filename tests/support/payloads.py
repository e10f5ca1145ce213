"""Payloads of job types that a test makes up."""

from __future__ import annotations

from pydantic import BaseModel


class Nothing(BaseModel):
    """A payload without content."""


class Number(BaseModel):
    """A payload with one number."""

    number: int
