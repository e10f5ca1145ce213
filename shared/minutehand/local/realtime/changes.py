"""Postgres Changes: who listens to which table, and which channel receives a change of it.

Visibility is Postgres' own decision, by `realtime.apply_rls`; this module keeps the rows of
`realtime.subscription`, streams the publication once there are listeners, and routes the answers.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg

from minutehand.local.realtime.broadcast import Member, fan_out
from minutehand.local.realtime.database import (
    Connection,
    Database,
    DatabaseUnavailable,
    connect,
    describe,
)
from minutehand.local.realtime.filters import InvalidEntry, change_id, parse_entry
from minutehand.local.realtime.pgoutput import Change, Relation, Unchanged, Value
from minutehand.local.realtime.replication import ReplicationStream
from minutehand.local.realtime.serializer import dump
from minutehand.local.realtime.visibility import Visibility

logger = logging.getLogger(__name__)

PUBLICATION = "supabase_realtime"
_RETRY_SECONDS = 0.5
_BYTEA = 17

_SUBSCRIBE = f"""
  insert into realtime.subscription (subscription_id, entity, filters, claims, action_filter)
  select
    %(id)s::uuid,
    format('%%I.%%I', pub.schemaname, pub.tablename)::regclass,
    coalesce(
      (
        select array_agg((c, o::realtime.equality_op, v)::realtime.user_defined_filter)
        from unnest(%(columns)s::text[], %(ops)s::text[], %(values)s::text[]) as f (c, o, v)
      ),
      '{{}}'
    ),
    %(claims)s::jsonb, %(event)s::text
  from pg_catalog.pg_publication_tables as pub
  where pub.pubname = '{PUBLICATION}'
    and %(schema)s::text in ('*', pub.schemaname::text)
    and %(table)s::text in ('*', pub.tablename::text)
"""
_TABLE = """
  select a.attname, a.atttypid::regtype::text, a.atttypid::int, a.attnum = any (pk.indkey)
  from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_index as pk on pk.indrelid = a.attrelid and pk.indisprimary
  where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
"""


class PostgresChanges:
    """All subscriptions of the server."""

    def __init__(
        self,
        url: str,
        database: Database,
        visibility: Visibility,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._url = url
        self._database = database
        self._visibility = visibility
        self._spawn = spawn
        #: The id of a row in `realtime.subscription`, to the channel and its entry's number.
        self._listeners: dict[str, tuple[Member, int]] = {}
        self._connection: Connection | None = None
        self._tables: dict[int, tuple[Relation, dict[str, Any], list[str]]] = {}
        self._stream = ReplicationStream(url, publication=PUBLICATION, on_changes=self._on_changes)
        self._streaming: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    def subscribe(self, channel: Member) -> None:
        """Subscribe a joined channel in the background and send it the outcome."""
        self.unsubscribe(channel)
        self._spawn(self._subscribe_and_reply(channel))

    def unsubscribe(self, channel: Member) -> None:
        """Forget a channel and delete its rows soon."""
        gone = [key for key, (member, _) in self._listeners.items() if member is channel]
        for key in gone:
            del self._listeners[key]
        if gone:
            self._spawn(self._delete(gone))

    async def _subscribe_and_reply(self, channel: Member) -> None:
        if self._streaming is None:
            self._streaming = self._spawn(self._stream.run())
        await self._stream.running.wait()
        while not channel.closed:
            try:
                await self._insert(channel)
            except InvalidEntry as error:
                self.unsubscribe(channel)
                channel.push_system("postgres_changes", "error", str(error))
                return
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                if channel.closed:
                    self.unsubscribe(channel)
                else:
                    channel.push_system("postgres_changes", "ok", "Subscribed to PostgreSQL")
                return

    async def _insert(self, channel: Member) -> None:
        entries = [(parse_entry(raw), change_id(raw)) for raw in channel.changes]
        async with self._database.transaction() as connection:
            for entry, number in entries:
                key = str(uuid.uuid4())
                values = {
                    "id": key,
                    "schema": entry.schema,
                    "table": entry.table,
                    "event": entry.event,
                    "claims": dump(dict(channel.token.claims)),
                    "columns": [one.column for one in entry.filters],
                    "ops": [one.op for one in entry.filters],
                    "values": [one.value for one in entry.filters],
                }
                try:
                    cursor = await connection.execute(_SUBSCRIBE.encode(), values)
                except psycopg.OperationalError:
                    raise
                except psycopg.Error as error:
                    raise InvalidEntry(
                        "Unable to subscribe to changes with given parameters."
                        f" Exception: {describe(error)}"
                    ) from error
                if cursor.rowcount == 0:
                    raise InvalidEntry(
                        "Unable to subscribe to changes with given parameters."
                        " Please check Realtime is enabled for the given connect parameters:"
                        f" [schema: {entry.schema}, table: {entry.table}]"
                    )
                # known before the row is: a change right behind the commit is not lost
                self._listeners[key] = (channel, number)
            await connection.execute("commit")

    async def _delete(self, ids: list[str]) -> None:
        try:
            async with self._database.transaction() as connection:
                await connection.execute(
                    "delete from realtime.subscription where subscription_id = any (%s::uuid[])",
                    [ids],
                )
                await connection.execute("commit")
        except DatabaseUnavailable:
            return  # of no one: emptied at the next start

    # ------------------------------------------------------------------------- streaming

    async def _on_changes(self, changes: list[Change]) -> None:
        if not self._listeners:
            return
        # rows are tested as they are now: one that is not visible yet would be hidden from all
        await self._visibility.wait(change.transaction_id for change in changes)
        for change in changes:
            try:
                await self._decide_and_send(change)
            except (DatabaseUnavailable, psycopg.Error) as error:
                # as of a table dropped since: the others must go on
                logger.warning(
                    "a change could not be decided",
                    extra={"event": "realtime.change_failed", "reason": describe(error)},
                )

    async def _decide_and_send(self, change: Change) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, "realtime_rls")
            self._tables.clear()
        connection = self._connection
        document = await self._document(connection, change)
        await connection.execute("begin")
        try:
            cursor = await connection.execute(
                "select wal::text, subscription_ids::text[], errors from realtime.apply_rls(%s)",
                [document],
                prepare=True,
            )
            rows = await cursor.fetchall()
        finally:
            if not connection.broken:
                await connection.execute("rollback")
        for wal, ids, errors in rows:
            self._send(wal, ids, errors)

    def _send(self, wal: str, ids: list[str], errors: list[str]) -> None:
        by_channel: defaultdict[Member, list[int]] = defaultdict(list)
        for key in ids:
            if key in self._listeners:
                channel, number = self._listeners[key]
                by_channel[channel].append(number)
        data = f'{wal[:-1]},"errors":{dump(errors or None)}}}'
        for channel, numbers in by_channel.items():
            payload = f'{{"ids":{dump(numbers)},"data":{data}}}'
            fan_out([channel], channel.topic, "postgres_changes", payload)

    # ------------------------------------------------------------------------ wal2json

    async def _document(self, connection: Connection, change: Change) -> str:
        """The change as wal2json's format 2 would write it."""
        relation = change.relation
        known = self._tables.get(relation.oid)
        if known is None or known[0] is not relation:
            rows = await (await connection.execute(_TABLE, [relation.oid])).fetchall()
            types = {name: (type_name, oid) for name, type_name, oid, _ in rows}
            keys = [name for name, _, _, is_key in rows if is_key]
            known = self._tables[relation.oid] = (relation, types, keys)
        _, types, keys = known
        document: dict[str, Any] = {
            "action": change.action,
            "timestamp": change.committed_at.isoformat(sep=" ", timespec="microseconds"),
            "schema": relation.schema,
            "table": relation.table,
            "pk": [{"name": name} for name in keys],
        }
        if change.new is not None:
            document["columns"] = _values(relation, change.new, types, None)
        if change.action != "I":
            # where the key did not change Postgres sent no old row: the new key is the old one
            full = change.old is not None and relation.replica_identity == "f"
            identity = {c.name for c in relation.columns if c.in_identity} or set(keys)
            old = change.old or change.new or ()
            document["identity"] = _values(relation, old, types, None if full else identity)
        return dump(document)


def _values(
    relation: Relation, values: tuple[Value, ...], types: dict[str, Any], only: set[str] | None
) -> list[dict[str, Any]]:
    listed = []
    for column, value in zip(relation.columns, values, strict=True):
        if isinstance(value, Unchanged) or (only is not None and column.name not in only):
            continue
        if column.type_oid == _BYTEA and value is not None:
            value = value.removeprefix("\\x")
        type_name, oid = types.get(column.name, ("text", 25))
        listed.append({"name": column.name, "type": type_name, "typeoid": oid, "value": value})
    return listed
