"""Calls of AWS: wake the worker, encrypt secrets by KMS, and read secrets from SSM.

Importing this package does not import boto3. Only the first call that needs boto3 imports boto3,
and no call at a cold start needs boto3.
"""

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
