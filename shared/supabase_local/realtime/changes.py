"""Postgres Changes: who listens to which table, and which channel receives a change of it.

Visibility is Postgres' own decision, by `realtime.apply_rls`; this module keeps the rows of
`realtime.subscription`, streams the publication while there are listeners, and routes the answers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import uuid
from collections import defaultdict
from typing import Any

import psycopg

from minutehand.tasks import end_tasks
from supabase_local.realtime.database import (
    Connection,
    Database,
    DatabaseUnavailable,
    connect,
    describe,
)
from supabase_local.realtime.filters import Entry, InvalidEntry, parse_entry
from supabase_local.realtime.flow import Flow
from supabase_local.realtime.join import change_id
from supabase_local.realtime.limits import Limits
from supabase_local.realtime.member import PREFIX, Member
from supabase_local.realtime.pgoutput import Change, Relation, Unchanged, Value
from supabase_local.realtime.replication import ReplicationStream
from supabase_local.realtime.serializer import Fanout, dump
from supabase_local.realtime.visibility import Visibility

logger = logging.getLogger(__name__)

PUBLICATION = "supabase_realtime"
_BATCH = 100
_START_SECONDS = 15.0
_LINGER_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_BYTEA = 17

_SUBSCRIBE = """
  insert into realtime.subscription
    (subscription_id, entity, filters, claims, action_filter, selected_columns)
  select
    %(id)s::uuid,
    format('%%I.%%I', pub.schemaname, pub.tablename)::regclass,
    coalesce(
      (
        select array_agg((c, o::realtime.equality_op, v, n)::realtime.user_defined_filter)
        from unnest(
          %(columns)s::text[], %(ops)s::text[], %(values)s::text[], %(negates)s::boolean[]
        ) as f (c, o, v, n)
      ),
      '{}'
    ),
    %(claims)s::jsonb, %(event)s::text, %(select)s::text[]
  from pg_catalog.pg_publication_tables as pub
  where pub.pubname = %(publication)s::name
    and %(schema)s::text in ('*', pub.schemaname::text)
    and %(table)s::text in ('*', pub.tablename::text)
  on conflict (subscription_id, entity, filters, action_filter, coalesce(selected_columns, '{}'))
    do update set claims = excluded.claims, created_at = now()
"""
_APPLY = """
  select decided.wal::text, decided.subscription_ids::text[], decided.errors
  from unnest(%s::text[]) with ordinality as changes (wal, position),
    lateral realtime.apply_rls(changes.wal::jsonb, %s) as decided
  where decided.subscription_ids[1] is not null
  order by changes.position
"""
_TABLE = """
  select a.attname, a.atttypid::regtype::text, a.atttypid::int, a.attnum = any (pk.indkey)
  from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_index as pk on pk.indrelid = a.attrelid and pk.indisprimary
  where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
"""


class SubscriptionRefused(Exception):
    """A join that waits for its subscription is refused; the text is the reason."""


@dataclasses.dataclass(slots=True)
class Subscription:
    """What one channel listens to."""

    #: uuid of an entry → the integer the client knows it by.
    ids: dict[str, int]
    task: asyncio.Task[None] | None = None


class PostgresChanges:
    """All subscriptions of the server."""

    def __init__(self, url: str, database: Database, limits: Limits, *, flow: Flow) -> None:
        self._url = url
        self._database = database
        self._limits = limits
        self._flow = flow
        self._subscriptions: dict[Member, Subscription] = {}
        self._listeners: dict[str, tuple[Member, int]] = {}
        self._entries: dict[str, tuple[Entry, str]] = {}
        self._gone: set[str] = set()
        self._cleaning: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._visibility = Visibility(url)
        self._tables: dict[int, tuple[Relation, dict[str, Any]]] = {}
        self._stream = ReplicationStream(
            url,
            publication=PUBLICATION,
            slot_prefix="supabase_realtime_replication_slot",
            on_changes=self._on_changes,
        )
        self._streaming: asyncio.Task[None] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Forget the subscriptions of an earlier process."""
        async with self._database.transaction() as connection:
            await connection.execute("delete from realtime.subscription")
            await connection.execute("commit")

    async def stop(self) -> None:
        """Stop streaming and delete what is left in the table."""
        tasks = (self._streaming, self._cleaning, *self._tasks)
        await end_tasks(task for task in tasks if task)
        if self._connection is not None:
            await self._connection.close()
        await self._visibility.close()
        if self._lingering is not None:
            self._lingering.cancel()

    # --------------------------------------------------------------------- subscriptions

    def subscribe(self, channel: Member) -> None:
        """Subscribe a joined channel in the background and send it the outcome."""
        self._drop(channel)
        subscription = self._subscriptions[channel] = Subscription({})
        subscription.task = asyncio.create_task(self._subscribe_and_reply(channel, subscription))
        self._keep(subscription.task)

    def unsubscribe(self, channel: Member) -> None:
        """Forget a channel; its rows are deleted soon."""
        if channel in self._subscriptions:
            self._drop(channel)
            if not self._subscriptions and self._streaming is not None:
                loop = asyncio.get_running_loop()
                self._lingering = loop.call_later(_LINGER_SECONDS, self._stop_when_unused)

    async def subscribe_and_wait(self, channel: Member, seconds: float) -> None:
        """Subscribe before the join is answered.

        Raises:
            SubscriptionRefused: An entry is invalid, or it took too long.
        """
        subscription = self._subscriptions[channel] = Subscription({})
        try:
            async with asyncio.timeout(seconds):
                await self._subscribe(channel, subscription)
        except TimeoutError as error:
            raise SubscriptionRefused(
                f"PostgresChangesSubscribeTimeout: Timed out after {int(seconds * 1000)}ms"
                " waiting for the postgres_changes subscription"
            ) from error
        except InvalidEntry as error:
            raise SubscriptionRefused(f"RealtimeDisabledForConfiguration: {error}") from error
        asyncio.get_running_loop().call_soon(self._reply_subscribed, channel)

    def _reply_subscribed(self, channel: Member) -> None:
        if not channel.closed:
            channel.push_system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _subscribe_and_reply(self, channel: Member, subscription: Subscription) -> None:
        while not channel.closed:
            try:
                await self._subscribe(channel, subscription)
            except InvalidEntry as error:
                channel.push_system("postgres_changes", "error", str(error))
                return
            except (DatabaseUnavailable, TimeoutError) as error:
                logger.warning(
                    "subscription delayed",
                    extra={"event": "realtime.subscription_delayed", "reason": describe(error)},
                )
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._reply_subscribed(channel)
                return

    async def _subscribe(self, channel: Member, subscription: Subscription) -> None:
        entries = [(parse_entry(raw), change_id(raw)) for raw in channel.request.changes]
        async with asyncio.timeout(_START_SECONDS):
            await self._ensure_streaming()
        claims = dump(dict(channel.token.claims))
        ids: dict[str, int] = {}
        # known before the rows are: a change decided between commit and return is not lost
        for entry, number in entries:
            key = str(uuid.uuid4())
            ids[key] = number
            self._listeners[key] = (channel, number)
            self._entries[key] = (entry, claims)
        subscription.ids = ids
        try:
            await self._insert(ids)
        except BaseException:
            self._forget_ids(ids)
            subscription.ids = {}
            raise
        if channel.closed or self._subscriptions.get(channel) is not subscription:
            self._forget_ids(ids)

    async def _insert(self, ids: dict[str, int]) -> None:
        async with self._database.transaction() as connection:
            for key in ids:
                entry, claims = self._entries[key]
                try:
                    cursor = await connection.execute(_SUBSCRIBE, _row_of(key, entry, claims))
                except psycopg.OperationalError:
                    raise
                except psycopg.Error as error:
                    raise InvalidEntry(
                        "Unable to subscribe to changes with given parameters."
                        " An exception happened so please check your connect parameters:"
                        f" [{entry}]."
                        f" Exception: {_exception_text(error)}"
                    ) from error
                if cursor.rowcount == 0:
                    raise InvalidEntry(
                        "Unable to subscribe to changes with given parameters."
                        " Please check Realtime is enabled for the given connect parameters:"
                        f" [{entry}]"
                    )
            await connection.execute("commit")

    def _drop(self, channel: Member) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is None:
            return
        if subscription.task is not None and not subscription.task.done():
            subscription.task.cancel()
        self._forget_ids(subscription.ids)

    def _forget_ids(self, ids: dict[str, int]) -> None:
        for key in ids:
            self._listeners.pop(key, None)
            self._entries.pop(key, None)
        self._gone.update(ids)
        if self._gone and (self._cleaning is None or self._cleaning.done()):
            self._cleaning = asyncio.create_task(self._clean())

    async def _clean(self) -> None:
        """Delete the rows of ended subscriptions, many at once."""
        while self._gone:
            await asyncio.sleep(0.05)
            ids = list(self._gone)
            try:
                async with self._database.transaction() as connection:
                    await connection.execute(
                        "delete from realtime.subscription where subscription_id = any(%s::uuid[])",
                        [ids],
                    )
                    await connection.execute("commit")
            except DatabaseUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._gone.difference_update(ids)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------- streaming

    async def _ensure_streaming(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._streaming is None:
            self._streaming = asyncio.create_task(self._stream.run())
        await self._stream.running.wait()

    def _stop_when_unused(self) -> None:
        if not self._subscriptions and self._streaming is not None:
            self._streaming.cancel()
            self._streaming = None

    async def _on_changes(self, changes: list[Change]) -> None:
        if not self._listeners:
            return
        # rows are tested as they are now: one that is not visible yet would be hidden from all
        await self._visibility.wait(change.transaction_id for change in changes)
        for at in range(0, len(changes), _BATCH):
            batch = changes[at : at + _BATCH]
            try:
                await self._decide_and_send(batch)
            except psycopg.Error as error:
                if self._connection is None or self._connection.broken:
                    self._connection = None
                    logger.warning(
                        "changes dropped: the database went away",
                        extra={"event": "realtime.changes_dropped", "reason": describe(error)},
                    )
                else:
                    await self._one_by_one(batch)
            except DatabaseUnavailable as error:
                logger.warning(
                    "changes dropped: the database is unavailable",
                    extra={"event": "realtime.changes_dropped", "reason": error.reason},
                )

    async def _one_by_one(self, batch: list[Change]) -> None:
        # one change that cannot be decided, as of a table dropped since, must not hide the others
        for change in batch:
            try:
                await self._decide_and_send([change])
            except psycopg.Error as error:
                logger.warning(
                    "a change could not be decided",
                    extra={
                        "event": "realtime.change_failed",
                        "table": f"{change.relation.schema}.{change.relation.table}",
                        "reason": describe(error),
                    },
                )

    async def _decide_and_send(self, batch: list[Change]) -> None:
        connection = await self._own_connection()
        documents = [await self._document(connection, change) for change in batch]
        await connection.execute("begin")
        try:
            cursor = await connection.execute(
                _APPLY, [documents, self._limits.change_record_bytes], prepare=True
            )
            rows = await cursor.fetchall()
        finally:
            if not connection.broken:
                await connection.execute("rollback")
        for wal, ids, errors in rows:
            self._send(wal, ids, errors)
        await self._flow.brake()

    async def _own_connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, "realtime_rls")
            self._tables.clear()
        return self._connection

    def _send(self, wal: str, ids: list[str], errors: list[str]) -> None:
        by_channel: dict[Member, list[int]] = defaultdict(list)
        for key in ids:
            listener = self._listeners.get(key)
            if listener is not None and not listener[0].closed:
                numbers = by_channel[listener[0]]
                if listener[1] not in numbers:
                    numbers.append(listener[1])
        if not by_channel:
            return
        data = f'{wal[:-1]},"errors":{dump(errors or None)}}}'
        made: dict[tuple[str, tuple[int, ...]], Fanout] = {}
        for channel, numbers in by_channel.items():
            key_of = (channel.topic, tuple(numbers))
            message = made.get(key_of)
            if message is None:
                payload = f'{{"ids":{dump(numbers)},"data":{data}}}'
                message = made[key_of] = Fanout(PREFIX + channel.topic, "postgres_changes", payload)
            frame = message.frame(channel.version)
            if frame is not None:
                channel.send_frame(frame)

    # ------------------------------------------------------------------------ wal2json

    async def _document(self, connection: Connection, change: Change) -> str:
        """The change as wal2json's format 2 would write it."""
        relation = change.relation
        known = self._tables.get(relation.oid)
        if known is None or known[0] is not relation:
            known = (relation, await self._describe(connection, relation))
            self._tables[relation.oid] = known
        types: dict[str, Any] = known[1]["types"]
        keys: list[str] = known[1]["keys"]
        document: dict[str, Any] = {
            "action": change.action,
            "timestamp": change.committed_at.isoformat(sep=" ", timespec="microseconds"),
            "schema": relation.schema,
            "table": relation.table,
            "pk": [_typed(name, types) for name in keys],
        }
        if change.new is not None:
            document["columns"] = _values(relation, change.new, types, None)
        if change.action != "I":
            document["identity"] = _identity(change, types, keys)
        return dump(document)

    async def _describe(self, connection: Connection, relation: Relation) -> dict[str, Any]:
        rows = await (await connection.execute(_TABLE, [relation.oid])).fetchall()
        await self._extend_wildcards()
        return {
            "types": {name: (type_name, oid) for name, type_name, oid, _ in rows},
            "keys": [name for name, _, _, is_key in rows if is_key],
        }

    async def _extend_wildcards(self) -> None:
        """A table may be new in the publication: wildcard entries listen to it from now on."""
        wild = {
            key: self._listeners[key][1]
            for key, (entry, _) in self._entries.items()
            if "*" in (entry.schema, entry.table) and key in self._listeners
        }
        if not wild:
            return
        try:
            await self._insert(wild)
        except InvalidEntry as error:
            logger.warning(
                "a wildcard subscription could not be extended",
                extra={"event": "realtime.wildcard_failed", "reason": describe(error)},
            )


def _row_of(key: str, entry: Entry, claims: str) -> dict[str, Any]:
    return {
        "id": key,
        "publication": PUBLICATION,
        "schema": entry.schema,
        "table": entry.table,
        "event": entry.event,
        "claims": claims,
        "select": list(entry.select) if entry.select is not None else None,
        "columns": [f.column for f in entry.filters],
        "ops": [f.op for f in entry.filters],
        "values": [f.value for f in entry.filters],
        "negates": [f.negate for f in entry.filters],
    }


def _exception_text(error: psycopg.Error) -> str:
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    message = error.diag.message_primary or describe(error)
    return f"ERROR {error.sqlstate} ({name}) {message}"


def _typed(name: str, types: dict[str, Any]) -> dict[str, Any]:
    type_name, oid = types.get(name, ("text", 25))
    return {"name": name, "type": type_name, "typeoid": oid}


def _values(
    relation: Relation, values: tuple[Value, ...], types: dict[str, Any], only: set[str] | None
) -> list[dict[str, Any]]:
    listed = []
    for column, value in zip(relation.columns, values, strict=True):
        if isinstance(value, Unchanged) or (only is not None and column.name not in only):
            continue
        if column.type_oid == _BYTEA and value is not None:
            value = value.removeprefix("\\x")
        listed.append({**_typed(column.name, types), "value": value})
    return listed


def _identity(change: Change, types: dict[str, Any], keys: list[str]) -> list[dict[str, Any]]:
    relation = change.relation
    if change.old is not None:
        full = relation.replica_identity == "f"
        only = None if full else {c.name for c in relation.columns if c.in_identity}
        return _values(relation, change.old, types, only)
    # the key did not change, so Postgres sent no old row: the new key is the old one
    identity = {c.name for c in relation.columns if c.in_identity} or set(keys)
    return _values(relation, change.new or (), types, identity)
