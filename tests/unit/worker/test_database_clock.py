"""The database's clock as a worker estimates it from responses."""

from datetime import timedelta

from minutehand.clock import FrozenClock
from minutehand.worker.database_clock import DatabaseClock


def test_instants_keep_their_order_when_a_response_took_longer_than_the_one_before() -> None:
    own = FrozenClock()
    clock = DatabaseClock(own)
    sent = own.now()
    clock.receive(sent)
    own.advance(seconds=1)
    first = clock.now()

    clock.receive(sent + timedelta(seconds=0.9))  # this response is 100 ms late
    later = [clock.now() for _ in range(3)]
    own.advance(seconds=0.2)

    assert first < later[0] < later[1] < later[2] < clock.now()
    assert clock.now() - sent < timedelta(seconds=1.2)

    clock.receive(sent - timedelta(hours=1))
    assert clock.now() == sent - timedelta(hours=1)
