"""An invented next release, whose engine has one more SQL function."""

import re
from pathlib import Path

from infra.release import releases
from minutehand.version import VERSION
from supabase_local.postgres import Postgres

_SERIES, _, _PATCH = VERSION.rpartition(".")
NEXT = f"{_SERIES}.{int(_PATCH) + 1}"
SECOND_SQL = """
-- Made up for a test.
create function queue.greetings() returns bigint language sql stable set search_path = ''
as $$ select count(*) from public.jobs where job_type like '%.hello' $$;
revoke execute on function queue.greetings from public;
"""


def make_release(copy: Path, version: str, server: Postgres) -> list[Path]:
    """Release a copy of the checkout as this version, and return the migrations."""
    changelog = copy / "CHANGELOG.md"
    text = changelog.read_text() if changelog.exists() else ""
    changelog.write_text(f"## [{version}]\n{text}")
    module = copy / "shared/minutehand/version.py"
    module.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{version}"', module.read_text()))
    first = copy / "supabase/schemas/01_foundation.sql"
    sql = re.sub(
        r"(queue\.version\(\).*?)select '[^']*'",
        rf"\1select '{version}'",
        first.read_text(),
        count=1,
        flags=re.DOTALL,
    )
    first.write_text(sql)
    return releases.release(version, copy, server)
