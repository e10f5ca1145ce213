"""What a message of Realtime holds: one event, several, or what only the log can tell."""

from __future__ import annotations

from typing import Any

import pytest

from minutehand.queue.broadcasts import READY_SECONDS, events_of_message


@pytest.mark.parametrize(
    ("payload", "events"),
    [
        ({"job_id": "j", "seq": 1}, [{"job_id": "j", "seq": 1}]),
        ({"events": [{"seq": 1}, {"seq": 2}]}, [{"seq": 1}, {"seq": 2}]),
        ({"events": [{"seq": 1}, "odd"]}, [{"seq": 1}, {}]),
        ({"events": []}, [{"events": []}]),
        (
            {"groups": [{"job_ids": ["a", "b"], "seqs": [1, 2], "type": "t"},
                        {"job_ids": ["c", "d"], "seqs": [7]}]},
            [{"job_id": "a", "seq": 1, "type": "t"}, {"job_id": "b", "seq": 2, "type": "t"},
             {"job_id": "c", "seq": 7}, {"job_id": "d", "seq": 7}],
        ),
        ({"groups": [{"job_ids": ["a", "b", "c"], "seqs": [1, 2]}]}, [{}]),
        ({"groups": [{"job_ids": ["a"], "seqs": [1, 2]}]}, [{}]),
        ({"groups": [{"job_ids": [], "seqs": [1]}, "odd"]}, [{}, {}]),
        ("odd", [{}]),
        (None, [{}]),
    ],
)  # fmt: skip
def test_a_message_holds_events_in_order(payload: Any, events: list[dict[str, Any]]) -> None:
    """What is no event has no number, which makes readers read the log."""
    assert events_of_message(payload) == events


def test_a_realtime_that_says_nothing_of_replication_is_given_its_own_minute() -> None:
    """It gives up after 60 s; sooner, its answer would be missed."""
    assert READY_SECONDS > 60
