"""What whoever stole a worker's key cannot do, and what is gone when the key is rotated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, EVE, Engine, refusal


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
    with pytest.raises(psycopg.Error) as refused:
        thief.register("work", schema_version=2_147_483_647)
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


def test_types_are_bounded(thief: Engine) -> None:
    """Each costs every lease a look."""
    with pytest.raises(psycopg.Error) as refused:
        thief.rpc("register_job_types", p_types=[{"job_type": f"t{n}"} for n in range(2001)])
    assert refusal(refused.value)[:2] == ("PT429", "quota_exceeded")


def test_a_worker_enqueues_for_members_only(engine: Engine, thief: Engine) -> None:
    """A job in a person's name is shown as theirs."""
    with pytest.raises(psycopg.Error) as refused:
        thief.enqueue(workspace=ACME, user_id=EVE)
    assert refusal(refused.value) == ("PT403", "forbidden", "user_id")

    assert engine.job(thief.enqueue(workspace=ACME, user_id=ADA))["user_id"] == ADA


def test_a_worker_enqueues_no_internal_type_by_itself(engine: Engine, thief: Engine) -> None:
    """Only the platform's own functions make those."""
    engine.register("work", internal=True)

    with pytest.raises(psycopg.Error) as refused:
        thief.enqueue(workspace=ACME)
    assert refusal(refused.value) == ("PT403", "forbidden", "job_type")


def rotate(engine: Engine, *, grace: int = 0) -> None:
    """Revoke what was issued until now."""
    now = engine.one("select queue.clock()")
    engine.rpc("revoke_worker_keys", p_before=now, p_grace_seconds=grace)


def test_a_revoked_key_begins_nothing(engine: Engine, thief: Engine) -> None:
    """Everything else needs the fence of a lease."""
    rotate(engine)

    for call in (
        lambda: thief.lease(),
        lambda: thief.register("work"),
        lambda: thief.enqueue(),
        lambda: thief.maintain(),
    ):
        with pytest.raises(psycopg.Error) as refused:
            call()
        assert refusal(refused.value) == ("PT401", "key_revoked", "SUPABASE_WORKER_KEY")


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


def test_rotation_lets_the_true_workers_say_it_all_again(engine: Engine, thief: Engine) -> None:
    """Ten steps at a time a thief gets anywhere; what it registered goes with its key."""
    for version in range(11, 200, 10):
        thief.register("work", schema_version=version, internal=True, max_concurrency=1)

    rotate(engine)
    with engine.database.as_role("job_worker", {"iat": time.time()}) as connection:
        true = Engine(engine.database, connection)
        true.register("work", schema_version=3, internal=False)

        assert known(engine, "schema_version") == 3
        assert known(engine, "internal") is False
        assert known(engine, "max_concurrency") is None
        true.register("work", schema_version=2)
        assert known(engine, "schema_version") == 3
