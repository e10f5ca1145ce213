"""Thin AWS adapters: wake-up invoke, sealing under KMS, secrets from SSM.

boto3 is imported by the first call that needs it, never by importing this package. The calls that
each cold start makes do not use boto3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minutehand.exports import lazy_exports

if TYPE_CHECKING:
    from minutehand.aws.clients import client as client
    from minutehand.aws.sealing import (
        SealBroken as SealBroken,
        Sealer as Sealer,
        make_sealer as make_sealer,
        row_context as row_context,
    )
else:
    __getattr__ = lazy_exports(
        __name__, {"clients": "client", "sealing": "SealBroken Sealer make_sealer row_context"}
    )
