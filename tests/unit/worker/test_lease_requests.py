"""What a tick says of its room: enqueues wake nobody while it has some."""

from __future__ import annotations

from minutehand.clock import SystemClock
from minutehand.config import Settings
from minutehand.queue import WorkerQueue
from minutehand.queue.models import LeaseResponse
from minutehand.worker import TickOptions
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.lease_requests import LeaseRequests
from minutehand.worker.summary import TickSummary


class Standing(SystemClock):
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        """The time it was set to."""
        return self.at


def requests(clock: Standing) -> LeaseRequests:
    """Of a tick that leases for 48 of its 60 seconds, and asks every half second."""
    settings = Settings.from_env(
        {
            "SUPABASE_URL": "http://127.0.0.1:1",
            "SUPABASE_PUBLISHABLE_KEY": "of no one",
            "SUPABASE_WORKER_KEY": "of no one",
        }
    )
    return LeaseRequests(
        WorkerQueue(settings),
        TickSummary(worker_id="w", tick_id="t"),
        Deadlines.until(0.0, 60.0),
        options=TickOptions(),
        clock=clock,
        job_types=["work"],
        queues=None,
        is_woken=False,
    )


def test_only_a_tick_that_will_ask_again_has_room() -> None:
    """Else its last poll promised room for two seconds more, and a job waited for the minute."""
    clock = Standing()
    asking = requests(clock)
    nothing = LeaseResponse(leases=[], maintenance=False, due=0, next_due_in_ms=None)

    assert asking.request(free_slots=4, staying=True).free_slots is None
    asking.note_answer(nothing)
    clock.at = Deadlines.until(0.0, 60.0).stop_leasing - 0.4
    assert asking.request(free_slots=4, staying=True).free_slots == 0
    asking.note_answer(nothing)

    assert asking.owes_a_look
    assert asking.next_due_at == clock.at + LeaseRequests.TRAILING_SECONDS
    asking.request(free_slots=4, staying=True)
    asking.note_answer(nothing)
    after: tuple[bool, float | None] = (asking.owes_a_look, asking.next_due_at)
    assert after == (False, None)
