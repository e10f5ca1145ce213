"""A made-up next release, which adds one migration."""

from __future__ import annotations

import re
from pathlib import Path

from minutehand.version import VERSION

_SERIES, _, _PATCH = VERSION.rpartition(".")
NEXT = f"{_SERIES}.{int(_PATCH) + 1}"
SECOND_SQL = """\
-- Made up for a test: a second release adds a file.
create function queue.greetings() returns bigint language sql stable set search_path = ''
as $$ select count(*) from public.jobs where job_type like '%.hello' $$;
revoke execute on function queue.greetings from public, anon, authenticated, service_role;
"""


def make_second_release(copy: Path) -> None:
    """Turn a copy of the checkout into that release."""
    version = copy / "shared" / "minutehand" / "version.py"
    version.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{NEXT}"', version.read_text()))
    (copy / "supabase/migrations/20991231000000_count_greetings.sql").write_text(SECOND_SQL)
