"""The first statement of a migration that alters tables, which locks all of them."""

from __future__ import annotations

import psycopg

from infra.release.changes import EDITABLE

#: Locks that do not block other transactions' use of a table.
_HARMLESS = ("AccessShareLock", "RowShareLock")
_LOCKS = """\
-- Lock all of these tables or none. A worker's calls lock tables in several orders, so a migration
-- that held some and waited for others would deadlock with them. 0.3 seconds are less than the time
-- after which Postgres looks for deadlocks.
do $$
declare
  c_timeout constant text := current_setting('lock_timeout');
begin
  for v_try in 1 .. 300 loop
    begin
      perform set_config('lock_timeout', '300ms', true);
      lock table {tables} in access exclusive mode;
      perform set_config('lock_timeout', c_timeout, true);
      return;
    exception when lock_not_available or deadlock_detected then
      perform pg_sleep(0.1);
    end;
  end loop;
  raise lock_not_available
    using message = 'other transactions have used tables of Minutehand for two minutes',
      hint = 'Nothing was changed. End long transactions, then apply the migration again.';
end;
$$;"""


def locks(url: str, statements: str) -> str:
    """Return a statement that locks all tables which `statements` lock, in order of creation.

    The statements are executed and stay in effect, and Postgres reports the locked tables. The
    result is empty if they lock no existing table. Tables that a project may have replaced by a
    view are left out.
    """
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "select c.oid, format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class as c"
            " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and n.nspname !~ '^pg_|^information_schema$'"
            " order by c.oid"
        ).fetchall()
        connection.execute(statements.encode())
        rows = connection.execute(
            "select distinct relation from pg_catalog.pg_locks"
            " where locktype = 'relation' and pid = pg_backend_pid() and mode <> all (%s)",
            (list(_HARMLESS),),
        ).fetchall()
    locked = {oid for (oid,) in rows}
    names = [name for oid, name in tables if oid in locked and name not in EDITABLE]
    return _LOCKS.format(tables=", ".join(names)) if names else ""
