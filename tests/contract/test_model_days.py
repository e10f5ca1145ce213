"""Failing language models: each job ends with a result or a sentence for people, at little cost."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any

import pytest

from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand.worker.testing import drain
from minutehand.worker.vendor import MAX_CALLS
from minutehand_apps.chat import processors as chat
from minutehand_apps.training import processors as training
from tests.contract.model_days import DAYS, KEY, REFUSED, STREAMS, DaysServer
from tests.support.harness import AppHarness
from tests.support.project import project_of_a_file
from tests.support.renewed import Renewed

pytestmark = pytest.mark.timeout(900)

#: The beginning of a job's text, by job type.
BEGIN = {
    "chat_message": "select chat.request('chat_' || md5(t) || md5(t),"
    " jsonb_build_object('text', t)) from (select %s::text as t) as said",
    "sop_generation": """
      with made as (
        insert into public.trainings (workspace_id, title, object_key, transcript)
        select id, %s, 'workspaces/' || id || '/' || gen_random_uuid(), '{}'
        from public.workspaces limit 1 returning *),
      received as (
        insert into public.training_chunks (training_id, number, workspace_id, engine, offline,
          segments)
        select id, 1, workspace_id, 'e', false, '[{"start": 0, "end": 9, "text": "open it"}]'
        from made)
      select training.enqueue(made, 'sop_generation') from made""",
}
ANSWERS = {
    "decide": {"tier": "standard", "reply": "Bakery"},
    "procedure": {"title": "Bakery", "steps": [{"title": "Open it", "at_seconds": 1}]},
}
#: Texts that no person should read: names of fields and classes, statuses, the key, the model.
INSIDE = re.compile(
    r"\b(tier|reply|steps|title|at_seconds|choices|content|delta|None|null)\b|_|Error\b|[{}\[\]<>]"
    rf"|\b[1-5]\d\d\b|Traceback|pydantic|httpx|schema|JSON|URL|127\.0|m-9|{KEY}"
)
#: Days on which a model only asks for a pause, or is unavailable.
WAITING = {day for day in REFUSED if day.startswith(("429, tokens", "502", "503", "52"))}
#: Chat runs each day. A procedure has a complex schema as well.
WORKS = [("chat_message", day) for day in DAYS]
WORKS += [("sop_generation", day) for day in DAYS if day not in REFUSED]
WORKS = WORKS if os.environ.get("WEEKLY") else WORKS[::4]


def how(row: dict[str, Any]) -> str:
    """Return the end of a job as a person sees it."""
    if row["status"] == "completed":
        return "result"
    is_over = row["status"] == "failed"
    result = str(row["error_message"] if is_over else (row["progress"] or {}).get("message"))
    has_reason = is_over or (row["attempts"] == 0 and "; it is asked again at " in result)
    if not has_reason or INSIDE.search(result) or len(result) < 20:
        return f"{row['status']}: {result}"
    return "sentence" if is_over else "waits"


@pytest.mark.weekly
async def test_each_day_ends_in_a_result_or_a_sentence(process_database: Renewed) -> None:
    """No step makes more than five calls that may be charged, and no log contains the key."""
    project = project_of_a_file(process_database, "allow_anonymous")
    project.sql("update queue.settings set value = 'null' where name ~ 'guest.*per_minute'")
    for job_type, day in WORKS:
        project.sql(BEGIN[job_type], f"Plan a bakery [day {day}]")

    def look() -> dict[tuple[str, str], dict[str, Any]]:
        query = "select * from public.jobs where job_type = any (%s) order by created_at"
        return dict(zip(WORKS, project.sql(query, list(BEGIN)), strict=True))

    async with DaysServer(ANSWERS) as server:
        apps: list[Any] = []

        def register(registry: Registry, settings: Settings, *, app: None) -> Any:
            for each in (chat, training):
                apps.append(each.register(registry, settings))
                apps[-1].model = OpenAICompatible(
                    server.url, model="m-9", key=KEY, answer_seconds=5
                )
            return apps[0]

        async with AppHarness(project, project.settings, register, None).open() as harness:
            await drain(harness.worker)
            rows = look()
            while {day for (_, day), row in rows.items() if row["status"] == "pending"} - WAITING:
                project.make_due()
                await drain(harness.worker)
                rows = look()
        await apps[1].aclose()

    ends = {work: how(row) for work, row in rows.items()}
    figures = Counter(end.partition(":")[0] for end in ends.values())
    print(f"{len(DAYS)} days, {len(WORKS)} works: {dict(figures)}")
    print(f"{server.chargeable.total()} calls, most {max(server.chargeable.values())}")
    good = {"result", "sentence", "waits"}
    assert {work: end for work, end in ends.items() if end not in good} == {}
    assert {ends[work] for work in WORKS if work[1] in STREAMS} == {"result"}
    assert max(server.chargeable.values()) <= MAX_CALLS
    logged = str(project.sql("select to_jsonb(l) as row from public.job_logs as l"))
    assert KEY not in logged + str(list(rows.values()))
