"""Reports failed attempts to Sentry by `around(report_errors)`. The app calls `sentry_sdk.init`."""

from typing import Any

import sentry_sdk

from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.middleware import Call
from minutehand.worker.outcomes import Fail, Returned


async def report_errors(job: Job[Any], ctx: JobContext, call: Call) -> Returned:
    """Report the error of an attempt to Sentry, as a warning if the job has another attempt.

    The payload is not sent. An exception by which a processor chooses its outcome, such as
    `Snooze`, is not reported, except `Fail`.
    """
    with sentry_sdk.isolation_scope() as scope:
        scope.set_transaction_name(job.job_type)
        scope.set_tag("job_type", job.job_type)
        scope.set_tag("workspace_id", str(job.workspace_id))
        scope.set_context(
            "job", {"id": str(job.id), "attempt": job.attempt, "max_attempts": job.max_attempts}
        )
        scope.set_level("error" if job.is_last_attempt else "warning")
        try:
            result = await call()
        except Exception as error:
            scope.capture_exception(error)
            raise
        if isinstance(result, Fail):
            scope.capture_message(result.reason, level="error")
        return result
