"""One tenant beside another that floods, on a stack whose Data API is as strict as PostgREST.

`DATA_API_STRICT=1 make run DEMO=0` has started it. p50 and p95 of a job's start, of a list and of a
job's last event in a stream: quiet, beside a kind of flood by one account that calls 24 at once,
whatever is refused, and beside a burner that takes the CPU of the flood and of what it caused: what
is more is not for want of CPU. Each phase has so many seconds, and the nine kinds eight minutes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Thread
from typing import Any

import httpx
import psutil
import psycopg

from infra.bench.scratch import WORKSPACE, user_token
from minutehand.local.users import EVE
from minutehand.terminal.connection import read_env_file

AT = (50, 95)  # of a hundred
ENV, SECONDS, QUIET_SECONDS = Path(".local/env"), 12, 6
STREAM = {"accept": "text/event-stream"}
EVES = str(EVE.workspace_id)
OF: dict[str, Any] = {"p_workspace_id": EVES}
LATER = {"delay_seconds": 86400}
# its account is of no one: the job ends as soon as it has looked
TYPE = {"job_type": "enrich_account"}
JOB = {**TYPE, "payload": {"account_id": str(EVE.id)}, "max_attempts": 1}
ONE = {**OF, "p_job_type": "enrich_account", "p_payload": JOB["payload"]}
PLAIN = {**OF, "p_job_type": "bench.none", "p_options": LATER}
ROW = {"workspace_id": EVES, "user_id": str(EVE.id), "job_type": "bench.none", "payload": {}}
ROW |= {"scheduled_for": "2099-01-01T00:00:00Z"}
SCHEDULE = {"name": "NEW", "cron": "* * * * *", **TYPE, "payload": JOB["payload"]}
HOOK = {"url": "https://example.com/NEW", "sealed_secret": "mh1.a.b.c"}
PAUSE = {"kind": "workspace", "name": EVES, "paused": False}
SPEC = {"jobspec_id": "NEW", "version": "1", "benchmark": {"name": "x"}, "questions": ["?"]}
SPEC |= {"constraints": {"regions": [f"r{n}" for n in range(50)], "min_regions": 1}}
PLAN = {"prompt": "NEW", "speed_vs_detail": "fast_but_skip_details"}
REST, API = "{SUPABASE_URL}/rest/v1", "{API_URL}/api"
#: Functions of the Data API, or addresses, each with a body (none: it is read) and, behind a #,
#: what it prefers. NEW is another one each time, and JOB is a job that waits.
FLOODS: dict[str, dict[str, Any]] = {
    "bulks": {"enqueue_jobs": {**OF, "p_jobs": [JOB] * 1000}},
    "bulks by HTTP": {f"{API}/jobs/bulk": {"workspace_id": EVES, "jobs": [JOB] * 100}},
    "guests": {"chat_request": {"p_session_id": "NEW", "p_request": {"text": "x"}}},
    "streams": {f"{API}/workspaces/{EVES}/events": None},
    "lists": {"list_jobs": {"p_filter": {"workspace_id": EVES, "search": "no"}}},
    "keys": {"enqueue_job": {**ONE, "p_options": {"concurrency_key": "NEW"}}},
    "cancels": {"cancel_job": {"p_job_id": "JOB"}, "retry_job": {"p_job_id": "JOB"}},
    "retries": {name: {**OF, "p_filter": TYPE} for name in ("cancel_jobs", "retry_jobs")},
    "jobs": {"enqueue_job": ONE},
    "jobs by HTTP": {f"{API}/jobs": {"workspace_id": EVES, **JOB}},
    "jobs of no one": {"enqueue_job": PLAIN},
    "large jobs": {"enqueue_job": {**PLAIN, "p_payload": {"x": "y" * 200_000}}},
    "deadlines": {"enqueue_job": {**ONE, "p_options": {"deadline_at": "2020-01-01T00:00:00Z"}}},
    "idempotency keys": {
        "enqueue_jobs": {
            **OF,
            "p_jobs": [{**JOB, **LATER, "idempotency_key": str(n)} for n in range(100)],
        }
    },
    "replaced": {
        "enqueue_job": {
            **PLAIN,
            "p_options": {**LATER, "unique": {"key": "k", "on_conflict": "replace"}},
        }
    },
    "debounced": {
        "enqueue_job": {**PLAIN, "p_options": {"unique": {"key": "d"}, "debounce_seconds": 60}}
    },
    "families": {"enqueue_jobs": {**OF, "p_jobs": [{**JOB, **LATER, "parent_id": "JOB"}] * 100}},
    "replays": {"replay_job": {"p_job_id": "JOB", "p_request": {}}},
    "answers": {"answer_job": {"p_job_id": "JOB", "p_answer": {"answer": "x" * 50_000}}},
    "rows in": {f"{REST}/jobs": ROW},
    "many rows in": {f"{REST}/jobs": [ROW] * 1000},
    "rows": {f"{REST}/jobs?limit=1000": None},
    "counted rows": {f"{REST}/jobs?payload->>x=like.*no*&limit=1#count=exact": None},
    "logs": {f"{REST}/job_logs?message=ilike.*no*": None},
    "lists by HTTP": {f"{API}/jobs?workspace_id={EVES}&search=no": None},
    "counts": {"count_jobs": OF},
    "one job": {"get_job": {"p_job_id": "JOB"}},
    "traces": {"job_trace": {"p_job_id": "JOB"}},
    "explains": {"explain_job": {"p_job_id": "JOB"}},
    "letters": {"dead_letters": OF},
    "feeds": {"event_feed": {**OF, "p_cursor": "1:1:"}},
    "statistics": {"queue_stats": OF, "explain_queue": OF},
    "series": {"queue_series": {**OF, "p_minutes": 1440}},
    "events": {"emit_event": {**OF, "p_name": "NEW", "p_payload": {"x": "y" * 100_000}}},
    "schedules": {"put_schedule": {**OF, "p_schedule": SCHEDULE}},
    "webhooks": {"put_webhook": {**OF, "p_webhook": HOOK}, "enqueue_job": ONE},
    "resumes": {"pause_jobs": {"p_request": PAUSE}},
    "limits": {"set_workspace_limits": {**OF, "p_limits": {"own_max_running": 9}}},
    "accounts": {f"{REST}/accounts": [{"workspace_id": EVES, "name": "x" * 500}] * 500},
    "follows": {"follow_topic": {"p_topic": f"workspace:{EVES}", "p_follower_id": EVES}},
    "guests' lists": {"chat_messages": {"p_session_id": "NEW"}, "chat_said": {"p_session_id": "s"}},
    "plans": {"plan_start": {**OF, "p_plan": PLAN}},
    "specs": {"beacon_submit": {**OF, "p_spec": SPEC}},
    "nonsense": {f"{API}/jobs": [[[[[[]]]]]] * 1000, "enqueue_job": {"p_job_type": 1}},
}
FLOODS["everything"] = {}
#: What is measured where nothing is named.
KINDS = (
    *("bulks", "bulks by HTTP", "guests", "streams", "lists", "keys", "cancels", "retries"),
    "everything",
)
TABLES = ("plans", "async_session_state", "beacon_jobs", "accounts")
CLEANUP = (
    f"delete from public.jobs where workspace_id <> '{WORKSPACE}'",
    *(f"delete from public.{name} where workspace_id <> '{WORKSPACE}'" for name in TABLES),
    "delete from queue.webhooks",
    "delete from queue.schedules where source is null",
    "delete from queue.named_events",
    "delete from queue.buckets",
)


def flood(name: str) -> None:
    """Be the rival; print each second what was answered how often."""
    said, place = Counter[str](), read_env_file(ENV)
    auth = f"Bearer {user_token(str(EVE.id), secret=place['SUPABASE_JWT_SECRET'])}"
    headers = {"apikey": place["SUPABASE_PUBLISHABLE_KEY"], "content-type": "application/json"}
    headers |= {} if "guests" in name else {"authorization": auth}
    http = httpx.Client(headers=headers, timeout=5, verify=False)

    rest = f"{place['SUPABASE_URL']}/rest/v1/rpc"
    given = http.post(f"{rest}/enqueue_job", content=json.dumps(PLAIN)).json()
    job = given["job"]["id"] if "job" in given else str(uuid.uuid4())

    def call(path: str, body: Any) -> httpx.Response:
        url, _, prefers = path.format(**place).partition("#")
        more = {"prefer": prefers} if prefers else {}
        if body is None:
            return http.get(url, headers=STREAM if "/events" in url else more)
        text = json.dumps(body).replace("NEW", uuid.uuid4().hex).replace("JOB", job)
        return http.post(url if "{" in path else f"{rest}/{path}", content=text)

    kinds = FLOODS if name == "everything" else [name]
    calls = [each for kind in kinds for each in FLOODS[kind].items()]

    def loop() -> None:
        while True:
            for path, body in calls:
                try:
                    said[str(call(path, body).status_code)] += 1
                except httpx.HTTPError as error:
                    said[type(error).__name__] += 1

    for _ in range(24):
        Thread(target=loop, daemon=True).start()
    while True:
        time.sleep(1)
        print(json.dumps(said), flush=True)


def burn(share: str) -> None:
    """Take so many cores, by four processes: one has no use for more than a core."""
    os.fork()
    os.fork()
    began = time.time()
    while True:
        time.sleep(0.001 * (time.process_time() > float(share) / 4 * (time.time() - began)))


def probe(place: dict[str, str], seconds: float) -> tuple[list[float], int]:
    """Seconds, p50 and p95, to a job's start; of a list; until a stream had the job's last event.

    What fails counts as a minute. The second is how often it looked.
    """
    auth = {"authorization": f"Bearer {user_token(secret=place['SUPABASE_JWT_SECRET'])}"}
    http = httpx.Client(base_url=place["API_URL"], headers=auth, timeout=60)
    seen, until = list[tuple[float, float, float]](), time.time() + seconds
    while time.time() < until or len(seen) < 10:
        began = time.time()
        try:
            made = http.post("/api/jobs", json={"workspace_id": WORKSPACE, **JOB}).json()
            read = http.get(f"/api/jobs/{made['id']}/events", headers=STREAM).text
            received, at = time.time(), read.partition('"type":"job.leased"')[2].split('"at":"')
            http.get(f"/api/jobs?workspace_id={WORKSPACE}").raise_for_status()
            start = datetime.fromisoformat(f"{at[1][:26]}+00:00").timestamp() - began
            seen.append((start, time.time() - received, received - began))
        except (httpx.HTTPError, LookupError, ValueError):
            seen.append((60, 60, 60))
    cells = [sorted(each)[len(seen) * at // 100] for each in zip(*seen, strict=True) for at in AT]
    return cells, len(seen)


def spent(rival: int) -> float:
    """CPU seconds of a process and of the stack's, whose launcher keeps its id in a file."""
    launcher = psutil.Process(int(ENV.with_name("lock").read_text()))
    those = (psutil.Process(rival), *launcher.children(recursive=True))
    return float(sum(sum(each.cpu_times()[:2]) for each in those))


def beside(place: dict[str, str], role: str) -> tuple[list[float], float, float, str]:
    """Probe beside a process of this module: seconds, cores it took with all, its last word.

    Between cores and word is how often a second was probed.
    """
    words = [sys.executable, "-m", "infra.bench.rival", role]
    with Popen(words, stdout=PIPE, text=True, start_new_session=True) as running:
        time.sleep(2)
        before, began = spent(running.pid), time.time()
        seen, probes = probe(place, QUIET_SECONDS if role == "0" else SECONDS)
        took = time.time() - began
        cores = (spent(running.pid) - before) / took
        os.killpg(running.pid, signal.SIGKILL)
        said = (running.communicate()[0].splitlines() or [""])[-1]
    with psycopg.connect(place["DATABASE_URL"], autocommit=True) as session:
        for statement in CLEANUP * 2:  # workers are still at it
            with suppress(psycopg.errors.DeadlockDetected):
                session.execute(statement.encode())
    return seen, cores, probes / took, said


def main() -> None:
    """Print a line for each of KINDS, or of the floods that are named; `all` are forty-five."""
    place = read_env_file(ENV)
    if not httpx.get(f"{place['SUPABASE_URL']}/_ready").json().get("strict"):
        sys.exit("the local Data API must give no caller turns: DATA_API_STRICT=1 make run DEMO=0")
    print(
        "of a start, a list and a last event: ms of p50 and p95 quiet · beside the flood · beside"
    )
    print("a burner of as many cores; p95 beside the flood ÷ quiet (÷ burner); answers")
    named = [name for name in FLOODS if name in sys.argv[1:] or sys.argv[1:] == ["all"]]
    for name in named or KINDS:
        quiet, idle, often, _ = beside(place, "0")
        flooded, cores, seldom, said = beside(place, name)
        # beside the flood fewer probes are made, so less of the cores is theirs than in quiet
        cores -= idle * seldom / often
        burnt, *_ = beside(place, str(max(0.0, cores)))
        print(f"{name:<17}{cores:.1f} cores", end="")
        for of in range(0, len(quiet), len(AT)):
            times = (each[of : of + len(AT)] for each in (quiet, flooded, burnt))
            shown = " · ".join("/".join(f"{one * 1000:.0f}" for one in each) for each in times)
            last = of + len(AT) - 1
            factors = flooded[last] / quiet[last], flooded[last] / burnt[last]
            print(f"\t{shown}: {factors[0]:.1f} ({factors[1]:.1f})", end="")
        print(f"\t{said}", flush=True)


if __name__ == "__main__":
    (flood if sys.argv[1] in FLOODS else burn)(sys.argv[1])
