# ruff: noqa: E501 - statements stay on one line
"""Calling the worker from SQL: only where pg_net is, only when wanted, never at an enqueue's cost."""

from __future__ import annotations

import pytest

from tests.support.engine import ACME, ADA, Engine

PG_NET = [
    "create schema net",
    "create table net.sent (url text, headers jsonb)",
    # the signature pg_net documents
    "create function net.http_post(url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 1000)"
    " returns bigint language sql as $$ insert into net.sent values (url, headers) returning 1::bigint $$",
    "create schema vault",
    "create table vault.decrypted_secrets (name text, decrypted_secret text)",
    "insert into vault.decrypted_secrets values ('worker_token', 's3cret')",
]
INSERT = "insert into public.jobs (workspace_id, job_type) values (%s, 'work')"


@pytest.fixture
def ringing(engine: Engine) -> Engine:
    """A database with the surface of pg_net and the vault, and the settings for it."""
    for statement in PG_NET:
        engine.run(statement)
    engine.run("grant usage on schema net, vault to postgres")
    engine.run("grant all on all tables in schema net, vault to postgres")
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

    assert ringing.rows("select url, headers ->> 'Authorization' from net.sent") == [
        ("https://api.example.com/api/jobs/worker", "Bearer s3cret")
    ]


def test_callers_of_the_data_api_wake_the_worker_themselves(ringing: Engine) -> None:
    """They are told by the answer; a second call would only cost."""
    with ringing.member(ADA) as ada:
        ada.enqueue()

    assert ringing.one("select count(*) from net.sent") == 0


def test_without_the_extension_nothing_happens(engine: Engine) -> None:
    """The file is the same everywhere."""
    assert engine.one("select queue.invoke_worker()") is False
    engine.run(INSERT, ACME)


def test_a_ring_that_fails_does_not_fail_the_enqueue(ringing: Engine) -> None:
    """It is a hint."""
    ringing.run("drop table net.sent")

    ringing.run(INSERT, ACME)

    assert len(ringing.lease()) == 1
