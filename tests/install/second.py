"""A made-up next release, whose engine has one function more."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from infra.release import releases
from minutehand.version import VERSION

_SERIES, _, _PATCH = VERSION.rpartition(".")
NEXT = f"{_SERIES}.{int(_PATCH) + 1}"
SECOND_SQL = """
-- Made up for a test.
create function queue.greetings() returns bigint language sql stable set search_path = ''
as $$ select count(*) from public.jobs where job_type like '%.hello' $$;
revoke execute on function queue.greetings from public;
"""


def make_second_release(copy: Path) -> None:
    """Turn a copy of the checkout, in which the one before is released, into that release."""
    text = copy / "supabase/schemas/20_extensions.sql"
    text.write_text(text.read_text() + SECOND_SQL)
    make_release(copy, NEXT, now=datetime.now(UTC))


def make_release(copy: Path, version: str, *, now: datetime) -> list[Path]:
    """Release a copy of the checkout as a version; return the migrations."""
    changes = copy / "CHANGELOG.md"
    changes.write_text(f"## [{version}]\n" + (changes.read_text() if changes.exists() else ""))
    name = copy / "shared/minutehand/version.py"
    name.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', name.read_text()))
    first = copy / "supabase/schemas/01_foundation.sql"
    said = re.sub(
        r"(queue\.version\(\).*?)select '[^']*'",
        rf"\1select '{version}'",
        first.read_text(),
        count=1,
        flags=re.DOTALL,
    )
    first.write_text(said)
    return releases.release(version, copy, now=now)
