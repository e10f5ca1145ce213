"""What the routes answer when the key service is missing or away."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from shared.config import ConfigurationError
from shared.web.errors import ApiError, unavailable

logger = logging.getLogger(__name__)


@contextmanager
def standing_on_keys() -> Iterator[None]:
    """Turn a missing setting, or a key service that is away, into 503.

    Raises:
        ApiError: 503 `not_configured` or `unavailable`.
    """
    try:
        yield
    except ConfigurationError as error:
        logger.error(
            "A setting is missing", extra={"event": "config.missing", "variable": error.variable}
        )
        raise ApiError(503, "not_configured", "This deployment cannot keep signing keys") from error
    except Exception as error:
        # named here and not at the top: boto3 is loaded only where it is used
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "AWS did not answer", extra={"event": "aws.unavailable", "reason": str(error)[:300]}
        )
        raise unavailable("The key service did not answer") from error
