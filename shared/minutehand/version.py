"""The version, which the wheel, the npm archive, migrations and worker runs contain."""

from __future__ import annotations

VERSION = "0.5.2"
