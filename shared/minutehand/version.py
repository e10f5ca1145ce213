"""The version of the wheel, the npm archive, the migrations and a worker run."""

from __future__ import annotations

VERSION = "0.5.1"
