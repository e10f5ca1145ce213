"""One tenant beside another that floods, on a stack whose Data API is as strict as PostgREST.

`DATA_API_STRICT=1 make run DEMO=0` has started it. p95 of a job's start, of a list and of a job's
last event in a stream, beside each kind of flood: one account that calls 24 at once, whatever is
refused. Against the quiet before it, and a burner after it that takes the CPU of the flood and of
what it caused: what is more is not for want of CPU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
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

ENV, SAMPLES = Path(".local/env"), 60
STREAM = {"accept": "text/event-stream"}
OF: dict[str, Any] = {"p_workspace_id": str(EVE.workspace_id)}
# its account is of no one: the job ends as soon as it has looked
TYPE = {"job_type": "enrich_account"}
JOB = {**TYPE, "payload": {"account_id": str(EVE.id)}, "max_attempts": 1}
ONE = {**OF, "p_job_type": "enrich_account", "p_payload": JOB["payload"]}
SCHEDULE = {"name": "NEW", "cron": "* * * * *", **TYPE, "payload": JOB["payload"]}
HOOK = {"url": "https://example.com/NEW", "sealed_secret": "mh1.a.b.c"}
PAUSE = {"kind": "workspace", "name": str(EVE.workspace_id), "paused": False}
#: Functions of the Data API, or what is read, each with a body; NEW is another one each time.
FLOODS: dict[str, dict[str, Any]] = {
    "jobs": {"enqueue_job": ONE},
    "keys": {"enqueue_job": {**ONE, "p_options": {"concurrency_key": "NEW"}}},
    "lists": {"list_jobs": {"p_filter": {"workspace_id": str(EVE.workspace_id), "search": "no"}}},
    "lists by HTTP": {f"{{API_URL}}/api/jobs?workspace_id={EVE.workspace_id}&search=no": None},
    "rows": {"{SUPABASE_URL}/rest/v1/jobs?limit=1000": None},
    "feeds": {"event_feed": {**OF, "p_cursor": "1:1:"}},
    "statistics": {"queue_stats": OF, "explain_queue": OF},
    "events": {"emit_event": {**OF, "p_name": "NEW", "p_payload": {"x": "y" * 100_000}}},
    "schedules": {"put_schedule": {**OF, "p_schedule": SCHEDULE}},
    "webhooks": {"put_webhook": {**OF, "p_webhook": HOOK}, "enqueue_job": ONE},
    "retries": {name: {**OF, "p_filter": TYPE} for name in ("cancel_jobs", "retry_jobs")},
    "resumes": {"pause_jobs": {"p_request": PAUSE}},
    "guests": {"chat_request": {"p_session_id": "NEW", "p_request": {"text": "x"}}},
    "streams": {f"{{API_URL}}/api/workspaces/{EVE.workspace_id}/events": None},
    "bulks": {"enqueue_jobs": {**OF, "p_jobs": [JOB] * 1000}},
}
FLOODS["everything"] = {path: body for flood in FLOODS.values() for path, body in flood.items()}
CLEANUP = f"""delete from public.jobs where workspace_id <> '{WORKSPACE}';
delete from queue.webhooks; delete from queue.schedules where source is null;
delete from queue.buckets"""


def flood(name: str) -> None:
    """Be the rival; print each second what was answered how often."""
    said, place = Counter[str](), read_env_file(ENV)
    auth = f"Bearer {user_token(str(EVE.id), secret=place['SUPABASE_JWT_SECRET'])}"
    headers = {"apikey": place["SUPABASE_PUBLISHABLE_KEY"], "content-type": "application/json"}
    headers |= {} if name == "guests" else {"authorization": auth}
    http = httpx.Client(headers=headers, timeout=5, verify=False)

    def call(path: str, body: Any) -> httpx.Response:
        if body is None:
            return http.get(path.format(**place), headers=STREAM if "/events" in path else {})
        text = json.dumps(body).replace("NEW", uuid.uuid4().hex)
        return http.post(f"{place['SUPABASE_URL']}/rest/v1/rpc/{path}", content=text)

    def loop() -> None:
        while True:
            for path, body in FLOODS[name].items():
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


def probe(place: dict[str, str]) -> list[float]:
    """Seconds of p95: to a job's start; of a list; until a stream had the job's last event."""
    auth = {"authorization": f"Bearer {user_token(secret=place['SUPABASE_JWT_SECRET'])}"}
    http = httpx.Client(base_url=place["API_URL"], headers=auth, timeout=60)
    seen = list[tuple[float, float, float]]()
    while len(seen) < SAMPLES:
        began = time.time()
        made = http.post("/api/jobs", json={"workspace_id": WORKSPACE, **JOB}).json()
        read = http.get(f"/api/jobs/{made['id']}/events", headers=STREAM).text
        received, at = time.time(), read.partition('"type":"job.leased"')[2].split('"at":"')[1][:26]
        http.get(f"/api/jobs?workspace_id={WORKSPACE}").raise_for_status()
        start = datetime.fromisoformat(f"{at}+00:00").timestamp() - began
        seen.append((start, time.time() - received, received - began))
    return [sorted(each)[SAMPLES * 19 // 20] for each in zip(*seen, strict=True)]


def spent(rival: int) -> float:
    """CPU seconds of a process and of the stack's, whose launcher keeps its id in a file."""
    launcher = psutil.Process(int(ENV.with_name("lock").read_text()))
    those = (psutil.Process(rival), *launcher.children(recursive=True))
    return float(sum(sum(each.cpu_times()[:2]) for each in those))


def beside(place: dict[str, str], role: str) -> tuple[list[float], float, str]:
    """Probe beside a process of this module: p95s, cores that it took with all, its last word."""
    words = [sys.executable, "-m", "infra.bench.rival", role]
    with Popen(words, stdout=PIPE, text=True, start_new_session=True) as running:
        time.sleep(3)
        before, began = spent(running.pid), time.time()
        seen = probe(place)
        cores = (spent(running.pid) - before) / (time.time() - began)
        os.killpg(running.pid, signal.SIGKILL)
        said = (running.communicate()[0].splitlines() or [""])[-1]
    with psycopg.connect(place["DATABASE_URL"], autocommit=True) as session:
        session.execute(CLEANUP.encode())
    return seen, cores, said


def main() -> None:
    """Print a line for each kind of flood, or for those that are named."""
    place = read_env_file(ENV)
    if not httpx.get(f"{place['SUPABASE_URL']}/_ready").json().get("strict"):
        sys.exit("the local Data API must give no caller turns: DATA_API_STRICT=1 make run DEMO=0")
    print("p95 beside a flood ÷ quiet (÷ burner): start, list, event; cores; answers")
    for name in sys.argv[1:] or FLOODS:
        (quiet, idle, _), (flooded, cores, said) = (beside(place, r) for r in ("0", name))
        burnt, *_ = beside(place, str(max(0.0, cores - idle)))
        found = zip(flooded, quiet, burnt, strict=True)
        cells = [f"{one / of:.1f} ({one / other:.1f})" for one, of, other in found]
        print(f"{name:<14}", *cells, f"{cores - idle:.1f}", said, sep="\t", flush=True)


if __name__ == "__main__":
    (flood if sys.argv[1] in FLOODS else burn)(sys.argv[1])
