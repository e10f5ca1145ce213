# ruff: noqa: E501 - statements stay on one line
"""Calling the worker from SQL: only where pg_net is, only when wanted, never at an enqueue's cost."""

from __future__ import annotations

import pytest

from tests.support.engine import ACME, ADA, Engine
from tests.support.extensions import PG_NET, VAULT, create

INSERT = "insert into public.jobs (workspace_id, job_type) values (%s, 'work')"


@pytest.fixture
def ringing(engine: Engine) -> Engine:
    """A database with the surface of pg_net and the vault, and the settings for it."""
    create(engine.connection, PG_NET, VAULT)
    engine.run("select vault.create_secret('s3cret', 'worker_token')")
    engine.rpc(
        "set_settings",
        p_settings={
            "worker_url": "https://api.example.com/api/jobs/worker",
            "worker_secret_name": "worker_token",
        },
    )
    return engine


def test_plain_sql_rings_once_for_a_burst(ringing: Engine) -> None:
    """Debounced like every wake-up; the token comes from the vault."""
    for _ in range(3):
        ringing.run(INSERT, ACME)

    assert ringing.rows("select url, headers ->> 'Authorization' from net.http_request_queue") == [
        ("https://api.example.com/api/jobs/worker", "Bearer s3cret")
    ]


def test_callers_of_the_data_api_wake_the_worker_themselves(ringing: Engine) -> None:
    """They are told by the answer; a second call would only cost."""
    with ringing.member(ADA) as ada:
        ada.enqueue()

    assert ringing.one("select count(*) from net.http_request_queue") == 0


def test_without_the_extension_nothing_happens(engine: Engine) -> None:
    """The file is the same everywhere."""
    assert engine.one("select queue.invoke_worker()") is False
    engine.run(INSERT, ACME)


def test_a_ring_that_fails_does_not_fail_the_enqueue(ringing: Engine) -> None:
    """It is a hint."""
    ringing.run("alter table net.http_request_queue add check (false)")

    ringing.run(INSERT, ACME)

    assert len(ringing.lease()) == 1
