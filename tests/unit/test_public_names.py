"""The names that packages of `minutehand` export.

An import contract lets the example apps import only these names.
"""

import re
from importlib import import_module

import pytest

from tests.support.paths import ROOT

#: Names that versions 0.4.4 and 0.5.0 exported. A removed name stays as an alias for one release.
RELEASED = {
    "minutehand": "Backoff BatchedJob Call Cancel ChildrenFailed EnqueueOptions Fail Job"
    " JobContext NewJob Outcome ProcessorError RateLimit Registry Retry Returned Schedule Snooze"
    " Stage around processor",
    "minutehand.client": "Client DuplicateJob EnqueueOptions InvalidState Job JobEvent JobNotFound"
    " NewJob QueueError QueueUnavailable RateLimited TokenRefused UniqueOptions",
    "minutehand.worker": "Backoff BatchedJob Call Cancel ChildResult ChildrenFailed EnqueueOptions"
    " Fail FanOut Job JobContext JobType LeaseLost Middleware NewJob Outcome OutputRefused"
    " ProcessorError RateLimit Registry Retry Returned Schedule Snooze Stage StagesFailed"
    " StepTimeout Stream Suspended TickOptions TickSummary Worker around default_registry"
    " processor trace_headers AttemptEnded RemoteFailed RemoteTask RetryAdvice VendorCalls"
    " VendorError classify_no_response classify_status clean_text clock_time is_blank user_message",
}
SOURCE = ROOT / "shared" / "minutehand"
#: The names that packages with lazy imports declare for type checkers.
DECLARED = {
    f"minutehand.{package}": " ".join(
        re.findall(r"\b(\w+) as \1\b", (SOURCE / package / "__init__.py").read_text())
    )
    for package in ("ai", "aws", "queue", "web")
}


@pytest.mark.parametrize("exported", [RELEASED, DECLARED], ids=["released", "declared"])
def test_each_export_is_found(exported: dict[str, str]) -> None:
    """Each name that an earlier release exported, or that is declared, can be imported."""
    missing = [
        f"{module}.{name}"
        for module, names in exported.items()
        for name in names.split()
        if not hasattr(__import__(module, fromlist=[name]), name)
    ]

    assert all(exported.values())
    assert missing == []


def test_a_renamed_name_still_works_and_warns() -> None:
    worker = import_module("minutehand.worker")

    with pytest.warns(DeprecationWarning, match="TurnEnded is now AttemptEnded"):
        former = worker.TurnEnded

    assert former is worker.AttemptEnded
