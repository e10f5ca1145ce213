"""What whoever stole a worker's key cannot do, and what is gone when the key is rotated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.engine import Engine, refusal


@pytest.fixture
def thief(engine: Engine) -> Iterator[Engine]:
    """Whoever holds `job_worker`'s key."""
    with engine.database.as_role("job_worker", {"iat": time.time() - 3600}) as connection:
        yield Engine(engine.database, connection)


def known(engine: Engine, column: str) -> Any:
    """A column of the type `work`."""
    return engine.one(f"select {column} from queue.job_types where job_type = 'work'")


def test_a_schema_version_cannot_jump(engine: Engine, thief: Engine) -> None:
    """Far ahead, it would make the true workers' registrations stale for good."""
    for version in (2_147_483_647, 12):
        with pytest.raises(psycopg.Error) as refused:
            thief.register("work", schema_version=version)
        assert refusal(refused.value) == ("PT409", "invalid_state", "schema_version")

    thief.register("work", schema_version=11)
    assert known(engine, "schema_version") == 11
    engine.register("work", schema_version=20_000)
    assert known(engine, "schema_version") == 20_000


def test_a_type_of_the_platform_stays_the_platforms(engine: Engine, thief: Engine) -> None:
    """Else a forged job of it would be taken for the platform's own."""
    engine.register("work", internal=True)

    thief.register("work", internal=False)
    assert known(engine, "internal") is True

    engine.register("work", internal=False)
    assert known(engine, "internal") is False


@pytest.mark.parametrize(
    "policy",
    [
        {"max_concurrency": 0},
        {"workspace_concurrency": 0},
        {"key_concurrency": 0},
        {"ageing_seconds": 0},
        {"ageing_seconds": -1},
        {"schema_version": 0},
    ],
)
def test_a_limit_that_stops_a_type_is_refused(thief: Engine, policy: dict[str, int]) -> None:
    """Zero jobs at once is a pause that nobody sees; zero seconds divide by zero in each lease."""
    with pytest.raises(psycopg.Error) as refused:
        thief.register("work", **policy)
    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")


def test_types_are_bounded(engine: Engine, thief: Engine) -> None:
    """Each costs every lease a look."""
    more = 2001 - engine.one("select count(*) from queue.job_types")
    with pytest.raises(psycopg.Error) as refused:
        thief.rpc("register_job_types", p_types=[{"job_type": f"t{n}"} for n in range(more)])
    assert refusal(refused.value)[:2] == ("PT429", "quota_exceeded")


def rotate(engine: Engine, *, grace: int = 0, before: str | None = None) -> None:
    """Revoke what was issued until then, by default until now."""
    before = before or engine.one("select queue.clock()")
    engine.rpc("revoke_worker_keys", p_before=before, p_grace_seconds=grace)


def test_the_new_key_works_and_the_old_one_for_a_grace(engine: Engine, thief: Engine) -> None:
    """Functions read their secrets again within five minutes; nobody is turned away meanwhile."""
    rotate(engine, grace=360)
    engine.enqueue()
    assert len(thief.lease()) == 1

    engine.advance(361)
    with pytest.raises(psycopg.Error):
        thief.lease()
    with engine.database.as_role("job_worker", {"iat": time.time()}) as connection:
        fresh = Engine(engine.database, connection)
        fresh.register("work")
        assert len(fresh.lease()) == 1


def test_what_a_thief_has_read_signs_no_guests_address(engine: Engine, thief: Engine) -> None:
    """The API's key to guests' addresses is a worker's to read."""
    read = thief.rpc("guest_key")

    rotate(engine)

    assert engine.rpc("guest_key") != read


@pytest.mark.parametrize(
    ("grace", "before"),
    [
        (-1, "now"),
        (86_401, "now"),
        (0.5, "now"),
        (0, "now() + interval '61 seconds'"),
        (0, "null"),
    ],
)
def test_a_rotation_has_a_time_and_an_end(engine: Engine, grace: float, before: str) -> None:
    """One to come would refuse the keys that are made until then."""
    before = before.replace("now()", "queue.clock()").replace("now", "queue.clock()")
    engine.stop_clock()
    with pytest.raises(psycopg.Error) as refused:
        engine.one(f"select public.revoke_worker_keys({before}, {grace})")
    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")


def test_a_rotation_ends_keys_to_the_second(engine: Engine) -> None:
    """Those that workers mint begin half a minute before; a grace ends when it says."""
    engine.stop_clock()
    now = int(engine.one("select extract(epoch from queue.clock())"))

    def said(age: int) -> str | None:
        with engine.database.as_role("job_worker", {"iat": now - age}) as connection:
            try:
                Engine(engine.database, connection).lease()
            except psycopg.Error as error:
                return refusal(error)[1]
        return "leases"

    answer = engine.rpc(
        "revoke_worker_keys",
        p_before=engine.one("select queue.clock() + interval '1 minute'"),
        p_grace_seconds=86_400,
    )
    assert answer["types"] == engine.one("select count(*) from queue.job_types where redefinable")
    assert said(3600) == "leases"
    engine.advance(86_400)
    assert [said(age) for age in (0, 1)] == ["leases", "key_revoked"]


@pytest.mark.parametrize(("grace", "before"), [(360, None), (0, "2020-01-01T00:00:00Z")])
def test_a_revoked_key_stays_revoked(
    engine: Engine, thief: Engine, grace: int, before: str | None
) -> None:
    """The next rotation gives a grace to the key of today, not to the one that was stolen."""
    engine.stop_clock()
    engine.advance(engine.one("select (1 - extract(epoch from queue.clock()) % 1)::float"))
    rotate(engine)
    rotate(engine, grace=grace, before=before)
    rotate(engine, grace=grace, before=before)

    with pytest.raises(psycopg.Error) as refused:
        thief.lease()
    assert refusal(refused.value)[1] == "key_revoked"
    with engine.database.as_role("job_worker", {"iat": time.time()}) as connection:
        assert Engine(engine.database, connection).lease() == []


def test_rotation_lets_the_true_workers_say_it_all_again(engine: Engine, thief: Engine) -> None:
    """Ten steps at a time a thief gets anywhere; what it registered goes with its key."""
    for version in range(11, 200, 10):
        thief.register("work", schema_version=version, internal=True, max_concurrency=1)
    engine.register("ahead")

    rotate(engine)
    with engine.database.as_role("job_worker", {"iat": time.time()}) as connection:
        true = Engine(engine.database, connection)
        true.register("work", schema_version=3, internal=False)
        true.register("ahead", schema_version=12)

        assert known(engine, "schema_version") == 3
        assert known(engine, "internal") is False
        assert known(engine, "max_concurrency") is None
        true.register("work", schema_version=2)
        assert known(engine, "schema_version") == 3
