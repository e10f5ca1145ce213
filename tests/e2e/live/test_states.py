"""The console and SQL derive a job's state alike, because a page's clock ends a delay."""

from __future__ import annotations

import json
import subprocess

from minutehand.node import node_binary
from tests.support.paths import ROOT
from tests.support.renewed import Renewed

CASES = """
select jsonb_build_object('status', s, 'attempts', a, 'next_retry_at', r, 'scheduled_for', f,
  'state', queue.state_of(s, a, r, f, 'epoch'))
from unnest('{pending,processing,waiting,completed,failed,cancelled}'::text[]) as s,
  generate_series(0, 1) as a,
  unnest(array[null, timestamptz '1969-12-31', '1970-01-02']) as r,
  unnest(array[null, timestamptz '1969-12-31', '1970-01-02']) as f"""


def test_the_console_derives_the_state_that_sql_does(renewed: Renewed) -> None:
    """Every combination of status, attempts and times gives the same state."""
    with renewed.connect() as connection:
        cases = [case for (case,) in connection.execute(CASES)]
    module = (ROOT / "infra" / "console" / "lib" / "states.js").as_uri()
    script = f"import {{ stateOfJob }} from {json.dumps(module)}; console.log(JSON.stringify("
    script += f"{json.dumps(cases)}.map((job) => stateOfJob(job, 0))))"

    said = subprocess.check_output([node_binary(), "--input-type=module", "-e", script])

    assert json.loads(said) == [case["state"] for case in cases]
