"""What routes answer when something they depend on is missing or unavailable.

Inside a job the same faults are the job's: it backs off and tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from minutehand.config import ConfigurationError
from minutehand.web.errors import ApiError, unavailable

logger = logging.getLogger(__name__)


@contextmanager
def standing_on(what: str) -> Iterator[None]:
    """Turn a missing setting, or an AWS service that is unavailable, into 503.

    Args:
        what: What is missing, e.g. `the key service`.
    """
    try:
        yield
    except ConfigurationError as error:
        logger.error(
            "A setting is missing", extra={"event": "config.missing", "variable": error.variable}
        )
        raise ApiError(503, "not_configured", f"This deployment lacks {what}") from error
    except Exception as error:
        # known by its name: importing botocore to ask would cost every caller that needs none
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "AWS did not answer", extra={"event": "aws.unavailable", "reason": str(error)[:300]}
        )
        raise unavailable(f"{what.capitalize()} did not answer") from error
