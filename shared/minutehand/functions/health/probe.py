"""Liveness: the answer of a process that runs. Standard library only."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def liveness(*, version: str, stage: str, region: str) -> dict[str, Any]:
    """What `/health` answers; it touches nothing, so it cannot be wrong about anything else."""
    return {
        "status": "healthy",
        "version": version,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "environment": {"region": region, "env": stage},
    }
