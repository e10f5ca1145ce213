# ruff: noqa: E501 - signatures stay on one line
"""Stand-ins for pg_net, pg_cron and the Vault, by the signatures and tables that they document.

They record what is asked of them; `Caller` then performs it, as the extensions' background
workers do: requests after their transaction has committed, schedules when they are due.
"""

from __future__ import annotations

import threading
from typing import Any

import httpx
import psycopg

from tests.support.databases import Database

#: https://supabase.com/docs/guides/database/extensions/pg_net
PG_NET = """
create schema net;
create table net.http_request_queue (
  id bigint generated always as identity primary key, method text not null, url text not null,
  headers jsonb not null, body bytea, timeout_milliseconds integer not null);
create table net._http_response (
  id bigint, status_code integer, content_type text, headers jsonb, content text, timed_out boolean,
  error_msg text, created timestamptz not null default now());
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}', timeout_milliseconds integer default 5000
) returns bigint language sql as $$
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('POST', url, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds) returning id
$$;
grant usage on schema net to postgres;
grant all on all tables in schema net to postgres;
"""
#: https://supabase.com/docs/guides/database/vault
VAULT = """
create schema vault;
create table vault.secrets (
  id uuid primary key default gen_random_uuid(), name text unique, description text not null default '',
  secret text not null);
create view vault.decrypted_secrets as
  select id, name, description, secret, secret as decrypted_secret from vault.secrets;
create function vault.create_secret(
  new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null
) returns uuid language sql as $$
  insert into vault.secrets (secret, name, description)
  values (new_secret, new_name, new_description) returning id
$$;
create function vault.update_secret(
  secret_id uuid, new_secret text default null, new_name text default null,
  new_description text default null, new_key_id uuid default null
) returns void language sql as $$
  update vault.secrets set secret = coalesce(new_secret, secret), name = coalesce(new_name, name)
  where id = secret_id
$$;
grant usage on schema vault to postgres;
grant all on all tables in schema vault to postgres;
"""
#: https://github.com/citusdata/pg_cron
PG_CRON = """
create schema cron;
create table cron.job (
  jobid bigint generated always as identity primary key, schedule text not null, command text not null,
  nodename text not null default 'localhost', nodeport integer not null default 5432,
  database text not null default current_database(), username text not null default current_user,
  active boolean not null default true, jobname text, unique (jobname, username));
create table cron.job_run_details (jobid bigint, runid bigint, status text, end_time timestamptz);
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as $$
  insert into cron.job (jobname, schedule, command) values (job_name, schedule, command)
  on conflict (jobname, username) do update set schedule = excluded.schedule, command = excluded.command
  returning jobid
$$;
grant usage on schema cron to postgres;
grant all on all tables in schema cron to postgres;
"""


def create(database: Database, *parts: str) -> None:
    """Switch extensions on, as the dashboard does: after the migrations."""
    with database.connect() as connection:
        for part in parts:
            connection.execute(part.encode())


class Caller:
    """Performs committed requests, and the schedules when `minute` is called.

    Use as a context manager. What came back is in `net._http_response`, as pg_net leaves it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pg_net")

    def __enter__(self) -> Caller:
        """Start the background worker."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._stopping.set()
        self._thread.join()

    def minute(self) -> None:
        """Run what pg_cron has for every minute, each in a session of its owner."""
        with self._database.connect() as connection:
            due = connection.execute(
                "select command, username from cron.job where active and schedule = '* * * * *'"
            ).fetchall()
        for command, username in due:
            with self._database.connect() as connection:
                connection.execute(f'set role "{username}"'.encode())
                connection.execute(command.encode())

    def _run(self) -> None:
        with self._database.connect() as connection, httpx.Client() as client:
            while not self._stopping.wait(0.02):
                for request in self._take(connection):
                    self._perform(connection, client, *request)

    def _take(self, connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
        return connection.execute(
            "delete from net.http_request_queue returning id, url, headers, body, timeout_milliseconds"
        ).fetchall()

    def _perform(
        self,
        connection: psycopg.Connection[Any],
        client: httpx.Client,
        number: int,
        url: str,
        headers: Any,
        body: bytes,
        patience_ms: int,
    ) -> None:
        status, content, late, problem = None, None, False, None
        try:
            answer = client.post(url, headers=headers, content=body, timeout=patience_ms / 1000)
            status, content = answer.status_code, answer.text
        except httpx.TimeoutException:
            late, problem = True, f"Timeout of {patience_ms} ms reached"
        except httpx.HTTPError as error:
            problem = str(error)
        connection.execute(
            "insert into net._http_response (id, status_code, content, timed_out, error_msg)"
            " values (%s, %s, %s, %s, %s)",
            (number, status, content, late, problem),
        )
