"""Postgres Changes: subscriptions to tables, and the delivery of row changes to channels.

As on hosted Supabase, the subscriber's role decides what is sent. The column grants of the role
limit the record, and the policies for the role decide whether the row is visible. Postgres
evaluates grants and policies when a row change arrives.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
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
  from pg_publication_tables as pub
  where pub.pubname = '{PUBLICATION}'
    and %s::text in ('*', pub.schemaname::text) and %s::text in ('*', pub.tablename::text)
"""
_COLUMNS = """
  select a.attname, a.atttypid::regtype::text, t.typname,
    coalesce(a.attnum = any (pk.indkey), false),
    has_column_privilege(a.attrelid, a.attnum, 'SELECT'), c.relrowsecurity
  from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    join pg_type as t on t.oid = a.atttypid
    left join pg_index as pk on pk.indrelid = a.attrelid and pk.indisprimary
  where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
  order by a.attnum
"""


class Subscriber(Member, Protocol):
    """A channel that subscribes to row changes."""

    closed: bool
    changes: list[dict[str, Any]]
    token: Token

    def push_system(self, extension: str, status: str, message: str) -> None:
        """Send the client a `system` message."""


@dataclass(frozen=True)
class Subscription:
    """A subscription in the join of a channel."""

    channel: Subscriber
    #: Id of the subscription for the client.
    number: int
    event: str
    #: Ids of the published tables to which the subscription applies.
    tables: frozenset[int]
    filters: tuple[Filter, ...]

    def wants(self, change: Change) -> bool:
        """Return whether table and action match the subscription.

        Postgres evaluates the filters.
        """
        return change.relation.oid in self.tables and self.event in ("*", ACTIONS[change.action])


@dataclass(frozen=True)
class Column:
    """A column of a table, with the rights of the current role."""

    name: str
    type: str
    type_name: str
    is_key: bool
    is_readable: bool
    #: True if the table has row level security.
    has_policies: bool


class PostgresChanges:
    """All subscriptions to row changes of the server."""

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
        """Subscribe a channel in the background, and send the client the result."""
        self.unsubscribe(channel)
        self._spawn(self._subscribe_and_reply(channel))

    def unsubscribe(self, channel: Subscriber) -> None:
        """Remove all subscriptions of a channel."""
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
        """Parse a subscription of a join.

        Raises InvalidEntry for an error that would otherwise occur only at a row change.
        """
        entry = parse_entry(raw)
        rejection = "Unable to subscribe to changes with given parameters."
        async with self._database.transaction() as connection:
            try:
                cursor = await connection.execute(_TABLES.encode(), [entry.schema, entry.table])
                tables = frozenset(oid for (oid,) in await cursor.fetchall())
                await become(connection, channel.token)
                for table in tables:
                    await _check_filters(connection, table, entry.filters)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                raise InvalidEntry(f"{rejection} Exception: {describe(error)}") from error
        if not tables:
            raise InvalidEntry(
                f"{rejection} Please check Realtime is enabled for the given connect parameters:"
                f" [schema: {entry.schema}, table: {entry.table}]"
            )
        return Subscription(channel, change_id(raw), entry.event, tables, entry.filters)

    async def _on_changes(self, changes: list[Change]) -> None:
        if not self._subscriptions:
            return
        # wait, because policies are evaluated on the current rows, and a row that is not yet
        # visible would be hidden
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
                # for example, a policy raised an error. Only this subscriber does not get the row.
                logger.warning(
                    "a change's filters could not be evaluated",
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
    """Return a row change as JSON for the current role, and the subscriptions that get it."""
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
        # a large value that did not change is missing in the change, but the old row may contain it
        text += f',"record":{await _row(connection, readable, {**old, **new})}'
    if action != "INSERT":
        # send only the key of a deleted row, because policies cannot be evaluated on a deleted row
        shown = [
            one for one in readable if action == "UPDATE" or one.is_key or not one.has_policies
        ]
        text += f',"old_record":{await _row(connection, shown, old)}'
    return f"{text}}}", chosen


def _values(change: Change) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Return the values of the new row that Postgres sent, and the old row's replica identity."""
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
    # if the key did not change, Postgres sends no old row, and the new row has the old key
    before = (old or new) if change.action != "I" else {}
    return new, {name: value for name, value in before.items() if name in identity}


async def _exists(
    connection: Connection, change: Change, keys: list[Column], new: Mapping[str, str | None]
) -> bool:
    """Return whether the current role can see the row."""
    equal = sql.SQL(" and ").join(
        sql.SQL("{} = (%s::text)::" + key.type).format(sql.Identifier(key.name)) for key in keys
    )
    table = sql.Identifier(change.relation.schema, change.relation.table)
    statement = sql.SQL("select from {} where {}").format(table, equal)
    cursor = await connection.execute(statement, [new[key.name] for key in keys])
    return await cursor.fetchone() is not None


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
    """Return values as JSON. Postgres converts each value by the type of its column."""
    shown = [column for column in columns if column.name in values]
    casts = sql.SQL(", ").join(
        sql.SQL("(%s::text)::" + column.type + " as {}").format(sql.Identifier(column.name))
        for column in shown
    )
    statement = sql.SQL("select to_jsonb(one)::text from (select {}) as one").format(casts)
    cursor = await connection.execute(statement, [values[column.name] for column in shown])
    row = await cursor.fetchone()
    return str(row[0]) if row else "{}"
