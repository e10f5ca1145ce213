"""What the video host says of a video, where it is odd."""

from __future__ import annotations

from typing import Any

import pytest

from minutehand_apps.training.mux import HostAsset


@pytest.mark.parametrize(
    ("duration", "known"),
    [(19.5, 19.5), (float("nan"), None), (float("inf"), None), ("long", None)],
)
def test_a_duration_that_is_no_number_is_not_known(duration: Any, known: float | None) -> None:
    """It is said beside the video, which can be played without."""
    found = HostAsset.model_validate({"id": "a", "status": "ready", "duration": duration})
    assert found.duration == known
