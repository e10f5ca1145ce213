# ruff: noqa: E501 - statements stay on one line
"""The database's size and growth: measured by workers once an hour, read by whoever asks."""

from __future__ import annotations

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.engine import Engine

SAMPLE = "insert into queue.storage_samples values (queue.clock() - make_interval(hours => %s), %s, 0, 0)"


def test_a_worker_measures_once_an_hour(engine: Engine) -> None:
    """Walking the files is not for every tick."""
    assert engine.rpc("storage")["database_bytes"] is None

    first, second = engine.rpc("record_storage"), engine.rpc("record_storage")
    engine.advance(3600)
    engine.rpc("record_storage")

    assert first["database_bytes"] > first["jobs_bytes"] > 0
    assert first["messages_bytes"] > 0
    assert (first["growth_bytes_per_day"], second["sampled_at"]) == (None, first["sampled_at"])
    assert engine.one("select count(*) from queue.storage_samples") == 2


def test_growth_is_that_of_a_week_at_most(engine: Engine) -> None:
    """One large job of this morning is no trend, and last month's import is none any more."""
    engine.stop_clock()
    for hours, size in ((24 * 20, 10_000_000), (48, 1_000_000), (1, 2_000_000)):
        engine.run(SAMPLE, hours, size)

    assert engine.rpc("storage")["growth_bytes_per_day"] == pytest.approx(
        1_000_000 * 24 / 47, abs=1
    )


def test_what_shrinks_grows_by_less_than_nothing(engine: Engine) -> None:
    """After retention was shortened."""
    engine.stop_clock()
    engine.run(SAMPLE, 24, 3_000_000)
    engine.run(SAMPLE, 0, 2_000_000)

    assert engine.rpc("storage")["growth_bytes_per_day"] == pytest.approx(-1_000_000, abs=100)


def test_samples_are_kept_for_thirty_days(engine: Engine) -> None:
    """What measures growth must not grow."""
    engine.run(SAMPLE, 24 * 31, 1)

    engine.rpc("record_storage")

    assert engine.one("select count(*) from queue.storage_samples") == 1


def test_people_learn_nothing_of_it(database: Database) -> None:
    """It tells of every tenant together."""
    for role in ("anon", "authenticated"):
        with (
            database.as_role(role) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("select public.storage()")
