"""A made-up release 0.1.1, which adds one migration."""

from __future__ import annotations

import re
from pathlib import Path

SECOND = "20991231000000_count_greetings.sql"
SECOND_SQL = """\
-- Made up for a test: a second release adds a file.
create function queue.greetings() returns bigint
language sql stable
set search_path = ''
as $$ select count(*) from public.jobs where job_type like '%.hello' $$;
comment on function queue.greetings is 'How often somebody was greeted.';
revoke execute on function queue.greetings from public, anon, authenticated, service_role;
"""
CHANGES = """\
## [0.1.1] - 2099-12-31

### Added
- Greetings are counted.

## [0.1.0] - 2099-12-30

### Added
- Everything.

"""


def make_second_release(copy: Path) -> None:
    """Turn a copy of the checkout into a release 0.1.1 that adds one migration."""
    version = copy / "shared" / "minutehand" / "version.py"
    version.write_text(re.sub(r'VERSION = ".*"', 'VERSION = "0.1.1"', version.read_text()))
    (copy / "supabase" / "migrations" / SECOND).write_text(SECOND_SQL)
    changes = copy / "CHANGELOG.md"
    changes.write_text(f"{changes.read_text()}\n{CHANGES}")
