"""Postgres Changes: who listens to which table, and which channel receives a change of it.

As hosted: each subscriber's own role decides. Its column grants say what a record shows, and its
policies whether the row is seen; both are asked of Postgres when a change arrives.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import psycopg
from psycopg import sql

from supabase_local.realtime.authorization import become
from supabase_local.realtime.broadcast import Member, fan_out
from supabase_local.realtime.database import (
    Connection,
    Database,
    DatabaseUnavailable,
    describe,
    wait_until_visible,
)
from supabase_local.realtime.filters import Filter, InvalidEntry, change_id, parse_entry
from supabase_local.realtime.pgoutput import Change, Unchanged
from supabase_local.realtime.replication import ReplicationStream
from supabase_local.realtime.serializer import dump
from supabase_local.realtime.tokens import Token

logger = logging.getLogger(__name__)

PUBLICATION = "supabase_realtime"
ACTIONS = {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}
_RETRY_SECONDS = 0.5

_TABLES = f"""
  select format('%%I.%%I', pub.schemaname, pub.tablename)::regclass::oid::bigint
  from pg_catalog.pg_publication_tables as pub
  where pub.pubname = '{PUBLICATION}'
    and %s::text in ('*', pub.schemaname::text) and %s::text in ('*', pub.tablename::text)
"""
_COLUMNS = """
  select a.attname, a.atttypid::regtype::text, t.typname,
    coalesce(a.attnum = any (pk.indkey), false),
    pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'), c.relrowsecurity
  from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_index as pk on pk.indrelid = a.attrelid and pk.indisprimary
  where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
  order by a.attnum
"""


class Subscriber(Member, Protocol):
    """A channel that asked for changes."""

    closed: bool
    changes: list[dict[str, Any]]
    token: Token

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send a `system` message."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    """One entry of a channel's join."""

    channel: Subscriber
    #: By which the client knows the entry.
    number: int
    event: str
    #: The ids of the published tables that it named.
    tables: frozenset[int]
    filters: tuple[Filter, ...]

    def wants(self, change: Change) -> bool:
        """Whether table and action are right; Postgres checks the filters."""
        return change.relation.oid in self.tables and self.event in ("*", ACTIONS[change.action])


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, as the present role sees it."""

    name: str
    type: str
    type_name: str
    is_key: bool
    is_readable: bool
    #: Of its table.
    has_policies: bool


class PostgresChanges:
    """All subscriptions of the server."""

    def __init__(
        self,
        url: str,
        database: Database,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._database = database
        self._spawn = spawn
        self._subscriptions: dict[Subscriber, list[Subscription]] = {}
        self._stream = ReplicationStream(url, publication=PUBLICATION, on_changes=self._on_changes)
        self._streaming: asyncio.Task[None] | None = None

    def subscribe(self, channel: Subscriber) -> None:
        """Subscribe a joined channel in the background and send it the outcome."""
        self.unsubscribe(channel)
        self._spawn(self._subscribe_and_reply(channel))

    def unsubscribe(self, channel: Subscriber) -> None:
        """Forget a channel."""
        self._subscriptions.pop(channel, None)

    async def _subscribe_and_reply(self, channel: Subscriber) -> None:
        if self._streaming is None:
            self._streaming = self._spawn(self._stream.run())
        await self._stream.running.wait()
        while not channel.closed:
            try:
                subscriptions = [await self._subscription(channel, raw) for raw in channel.changes]
            except InvalidEntry as error:
                channel.push_system("postgres_changes", "error", str(error))
                return
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not channel.closed:
                self._subscriptions[channel] = subscriptions
                channel.push_system("postgres_changes", "ok", "Subscribed to PostgreSQL")
            return

    async def _subscription(self, channel: Subscriber, raw: dict[str, Any]) -> Subscription:
        """Read an entry; InvalidEntry for what would fail later, when no one learns why."""
        entry = parse_entry(raw)
        refused = "Unable to subscribe to changes with given parameters."
        async with self._database.transaction() as connection:
            try:
                found = await connection.execute(_TABLES.encode(), [entry.schema, entry.table])
                tables = frozenset(oid for (oid,) in await found.fetchall())
                await become(connection, channel.token)
                for table in tables:
                    await _check_filters(connection, table, entry.filters)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                raise InvalidEntry(f"{refused} Exception: {describe(error)}") from error
        if not tables:
            raise InvalidEntry(
                f"{refused} Please check Realtime is enabled for the given connect parameters:"
                f" [schema: {entry.schema}, table: {entry.table}]"
            )
        return Subscription(channel, change_id(raw), entry.event, tables, entry.filters)

    async def _on_changes(self, changes: list[Change]) -> None:
        if not self._subscriptions:
            return
        # rows are tested as they are now: one that is not visible yet would be hidden from all
        await wait_until_visible(self._database, (one.transaction_id for one in changes))
        for change in changes:
            await self._deliver(change)

    async def _deliver(self, change: Change) -> None:
        by_token: defaultdict[str, list[Subscription]] = defaultdict(list)
        for subscriptions in list(self._subscriptions.values()):
            for one in subscriptions:
                if one.wants(change):
                    by_token[one.channel.token.text].append(one)
        for wanting in by_token.values():
            try:
                async with self._database.transaction() as connection:
                    await become(connection, wanting[0].channel.token)
                    data, chosen = await _as_seen(connection, change, wanting)
            except (DatabaseUnavailable, psycopg.Error) as error:
                # as of a policy that raises: it hides the row from its reader alone
                logger.warning(
                    "a change could not be decided",
                    extra={"event": "realtime.change_failed", "reason": describe(error)},
                )
            else:
                self._send(data, chosen)

    def _send(self, data: str, subscriptions: Iterable[Subscription]) -> None:
        by_channel: defaultdict[Subscriber, list[int]] = defaultdict(list)
        for one in subscriptions:
            if not one.channel.closed:
                by_channel[one.channel].append(one.number)
        for channel, numbers in by_channel.items():
            payload = f'{{"ids":{dump(numbers)},"data":{data}}}'
            fan_out([channel], channel.topic, "postgres_changes", payload)


async def _columns(connection: Connection, table: int) -> dict[str, Column]:
    rows = await (await connection.execute(_COLUMNS, [table])).fetchall()
    return {row[0]: Column(*row) for row in rows}


async def _check_filters(connection: Connection, table: int, filters: tuple[Filter, ...]) -> None:
    columns = await _columns(connection, table) if filters else {}
    for one in filters:
        column = columns.get(one.column)
        if column is None or not column.is_readable:
            raise InvalidEntry(f"invalid column for filter {one.column}")
        await connection.execute(one.statement(column.type), [None, one.value])


async def _as_seen(
    connection: Connection, change: Change, wanting: list[Subscription]
) -> tuple[str, list[Subscription]]:
    """The change as JSON for the role that was taken, and the subscriptions that receive it."""
    relation, action = change.relation, ACTIONS[change.action]
    columns = await _columns(connection, relation.oid)
    readable = [column for column in columns.values() if column.is_readable]
    new, old = _values(change)
    data: dict[str, Any] = {"schema": relation.schema, "table": relation.table, "type": action}
    if action != "DELETE":
        keys = [column for column in columns.values() if column.is_key]
        if not keys:
            return dump({**data, "errors": ["Error 400: Bad Request, no primary key"]}), wanting
        if not all(key.is_readable for key in keys):
            return dump({**data, "errors": ["Error 401: Unauthorized"]}), wanting
        if keys[0].has_policies and not await _exists(connection, change, keys, new):
            return "", []
    tested = old if action == "DELETE" else new
    chosen = [one for one in wanting if await _match(connection, one.filters, columns, tested)]
    if not chosen:
        return "", []
    data["commit_timestamp"] = change.committed_at.isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    data["columns"] = [{"name": column.name, "type": column.type_name} for column in readable]
    text = dump({**data, "errors": None})[:-1]
    if action != "DELETE":
        # a large unchanged value is absent from the change: the old row may have it
        text += f',"record":{await _row(connection, readable, {**old, **new})}'
    if action != "INSERT":
        # a deleted row can no longer be tested against a policy: its key, nothing more
        shown = [
            one for one in readable if action == "UPDATE" or one.is_key or not one.has_policies
        ]
        text += f',"old_record":{await _row(connection, shown, old)}'
    return f"{text}}}", chosen


def _values(change: Change) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """The new row as far as Postgres sent it, and of the old one its replica identity."""
    columns = change.relation.columns
    new, old = (
        {
            column.name: value
            for column, value in zip(columns, values, strict=True)
            if not isinstance(value, Unchanged)
        }
        if values
        else {}
        for values in (change.new, change.old)
    )
    identity = {column.name for column in columns if column.in_identity}
    # where the key did not change Postgres sent no old row: the new key is the old one
    before = (old or new) if change.action != "I" else {}
    return new, {name: value for name, value in before.items() if name in identity}


async def _exists(
    connection: Connection, change: Change, keys: list[Column], new: Mapping[str, str | None]
) -> bool:
    """Whether the row is there for the role that was taken."""
    equal = sql.SQL(" and ").join(
        sql.SQL("{} = (%s::text)::" + key.type).format(sql.Identifier(key.name)) for key in keys
    )
    table = sql.Identifier(change.relation.schema, change.relation.table)
    statement = sql.SQL("select from {} where {}").format(table, equal)
    found = await connection.execute(statement, [new[key.name] for key in keys])
    return await found.fetchone() is not None


async def _match(
    connection: Connection,
    filters: tuple[Filter, ...],
    columns: Mapping[str, Column],
    values: Mapping[str, str | None],
) -> bool:
    for one in filters:
        if one.column not in columns or one.column not in values:
            return False
        statement = one.statement(columns[one.column].type)
        found = await connection.execute(statement, [values[one.column], one.value])
        if await found.fetchone() != (True,):
            return False
    return True


async def _row(
    connection: Connection, columns: list[Column], values: Mapping[str, str | None]
) -> str:
    """Values as Postgres writes them in JSON, by their columns' types."""
    shown = [column for column in columns if column.name in values]
    casts = sql.SQL(", ").join(
        sql.SQL("(%s::text)::" + column.type + " as {}").format(sql.Identifier(column.name))
        for column in shown
    )
    statement = sql.SQL("select to_jsonb(one)::text from (select {}) as one").format(casts)
    found = await connection.execute(statement, [values[column.name] for column in shown])
    row = await found.fetchone()
    return str(row[0]) if row else "{}"
