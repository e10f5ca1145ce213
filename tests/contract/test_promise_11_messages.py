"""The engine sends at most as many Realtime messages per second as the project's plan allows.

Beyond this rate, followers get a message that asks them to read again.
"""

import json

import pytest

from tests.contract.observed import messages
from tests.support.engine import ACME, GLOBEX, Engine
from tests.support.patience import until

BUDGET = 20
#: The length in seconds of the window in which messages are counted.
WINDOW = 6


@pytest.fixture
def counted(engine: Engine) -> Engine:
    engine.set(realtime_messages_per_second=BUDGET)
    return engine


def most_in_a_window(engine: Engine) -> int:
    """Return the largest number of messages and deliveries in any window of six seconds."""
    sent = engine.rows("select extract(epoch from inserted_at)::float from realtime.messages")
    return max((2 * sum(0 <= at - first < WINDOW for at in sent) for first in sent), default=0)


def until_sent(engine: Engine, topic: str, job_id: str, kind: str) -> None:
    """Wait until the topic gets a message with the job's event, or a request to read again."""

    def look() -> bool:
        engine.elapse(1)
        texts = [json.dumps(payload) for _, _, payload in messages(engine, topic)]
        return any("look_again" in each or (job_id in each and kind in each) for each in texts)

    until(look)


def test_a_burst_stays_within_the_budget_and_no_watcher_stays_behind(
    counted: Engine, ada: Engine
) -> None:
    topic = f"workspace:{ACME}"
    ada.follow(topic)
    cursor = counted.rpc("event_feed", p_workspace_id=ACME)["cursor"]
    wakes = counted.lease_call(listens=True)["wake_topic"]
    for number in range(BUDGET):  # no worker whose process has ended gets a message
        ended = {"worker_id": f"ended-{number}", "evidence": {}}
        counted.rpc("tick_finished", p_request=ended)
    emits = "select emit_event(%s, 'e' || i) from generate_series(1, 9) as i"
    counted.run(emits, ACME)
    assert len(messages(counted, wakes)) == 1
    for _ in range(150):
        last = counted.enqueue()

    assert 0 < len(messages(counted, topic)) < 150
    assert most_in_a_window(counted) <= WINDOW * BUDGET
    until_sent(counted, topic, last, "job.created")
    page = counted.rpc("event_feed", p_workspace_id=ACME, p_cursor=cursor)
    assert len(page["events"]) == 150
    assert most_in_a_window(counted) <= WINDOW * BUDGET


def test_progress_is_held_back_before_states(counted: Engine, ada: Engine) -> None:
    """When messages exceed the rate, progress messages are left out first.

    The end of the job is still sent.
    """
    job_id = counted.enqueue()
    ada.follow(f"job:{job_id}")
    lease = counted.lease_one()
    for percentage in range(60):
        counted.report(lease, progress={"percentage": percentage})
    counted.settle(lease)

    result = [event for _, event, _ in messages(counted, f"job:{job_id}")]
    assert 0 < result.count("job.progress") < 60
    if "job.completed" not in result:
        until_sent(counted, f"job:{job_id}", job_id, "job.completed")


def test_a_tenants_burst_holds_back_nothing_of_another_that_is_watched(
    counted: Engine, ada: Engine, eve: Engine
) -> None:
    """While one tenant's jobs exceed the message rate, another tenant's message is still sent."""
    ada.follow(f"workspace:{ACME}")
    for _ in range(2):
        for _ in range(60):
            counted.enqueue(workspace=GLOBEX)
        job_id = counted.enqueue()
        assert messages(counted, f"workspace:{ACME}")[-1][2]["job_id"] == job_id
        eve.follow(f"workspace:{GLOBEX}")


def test_many_connections_share_one_budget(counted: Engine) -> None:
    """Six connections that enqueue concurrently together keep the limit of messages per second."""

    def enqueue(other: Engine) -> None:
        for _ in range(25):
            other.enqueue()

    assert counted.race(*[enqueue] * 6) == [None] * 6
    assert most_in_a_window(counted) <= WINDOW * BUDGET


def test_one_transaction_takes_a_part_alone_and_a_rollback_none(counted: Engine) -> None:
    """One transaction uses at most half of the message rate.

    Messages of a rolled-back transaction are not sent.
    """
    with counted.connection.transaction():
        for _ in range(300):
            counted.enqueue()
    taken = len(messages(counted))
    assert taken <= WINDOW * BUDGET / 2
    with counted.open_transaction() as other:
        for _ in range(10):
            other.enqueue()
        other.run("rollback")
    assert len(messages(counted)) == taken
