"""The first statement of a migration that alters tables: the locks of all of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from infra.release.changes import EDITABLE
from infra.release.texts import without_comments

#: What waits for those who use a table, and then keeps them waiting.
_ALTERS = re.compile(
    r"\b(?:alter table|drop table|update|delete from"
    r"|(?:create (?:unique )?index|create (?:constraint )?trigger|drop trigger"
    r"|create policy|alter policy|drop policy)\b[^;]*? on)"
    r" (?:if exists |only )*(?P<table>[\w.]+)"
)
_LOCKS = """\
-- All of these tables or none, as a worker's calls take them in more than one order: who held some
-- and waited for others would deadlock with them. 0.3 seconds are less than Postgres waits before
-- it looks for deadlocks.
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


def locks(statements: Iterable[str], tables: Collection[str]) -> list[str]:
    """The statement that locks those of `tables` that `statements` alter, in the order of `tables`.

    Nothing where they alter none. What a project may have replaced by a view is left out.
    """
    altered = {
        match["table"]
        for statement in statements
        if not (code := without_comments(statement)).startswith(("create function", "create or"))
        for match in _ALTERS.finditer(code)
    }
    found = [table for table in tables if table in altered - EDITABLE]
    return [_LOCKS.format(tables=", ".join(found))] if found else []
