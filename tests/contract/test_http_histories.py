"""Random histories over HTTP: what people ask is answered as the job's state allows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.observed import ask
from tests.support.engine import ACME, ADA, BOB, EVE

LIVE = {"pending", "processing", "waiting"}
#: By what is asked: states in which it is done; in the others it is refused by 409.
MAY = {
    "cancel": LIVE | {"cancelled", "delayed"},
    "retry": {"failed", "cancelled", "delayed"},
    "answer": {"waiting"},
    "replay": LIVE | {"delayed", "failed", "cancelled", "completed"},
}
BODIES: dict[str, Any] = {"answer": {"answer": 1}, "replay": {}}


@dataclass
class History:
    """The jobs that were made, as the next answer must see them."""

    api: Api
    dice: random.Random
    jobs: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    leases: list[dict[str, Any]] = field(default_factory=list)

    def state(self, job_id: str) -> str:
        job = self.api.engine.job(job_id)
        waits = job["status"] == "pending" and (job["scheduled_for"] or job["next_retry_at"])
        return "delayed" if waits else str(job["status"])

    async def enqueue(self) -> None:
        body: dict[str, Any] = {"workspace_id": ACME, "job_type": "work", "payload": {}}
        if self.dice.random() < 0.3:
            body["delay_seconds"] = 600
        key, user = self.dice.choice([None, "a", "b"]), self.dice.choice([ADA, BOB])
        headers = {"idempotency-key": key} if key else {}
        answer = await self.api.call("POST", "/api/jobs", user=user, json=body, headers=headers)
        if key in self.keys and answer.status_code == 409:  # the same key with other options
            return
        assert answer.status_code == (200 if key in self.keys else 201), answer.text
        job_id = answer.json()["id"]
        if key:
            assert self.keys.setdefault(key, job_id) == job_id
        if job_id not in self.jobs:
            self.jobs.append(job_id)

    async def steer(self) -> None:
        job_id, what = self.dice.choice(self.jobs), self.dice.choice(list(MAY))
        before, path = self.state(job_id), f"/api/jobs/{job_id}/{what}"
        stranger = await self.api.call("POST", path, user=EVE, json=BODIES.get(what))
        assert stranger.status_code == 404, stranger.text
        assert self.state(job_id) == before
        answer = await self.api.call("POST", path, user=BOB, json=BODIES.get(what))
        allowed = before in MAY[what]
        assert (answer.status_code < 300) is allowed, (what, before, answer.text)
        assert allowed or answer.status_code == 409
        if allowed and what == "replay":
            self.jobs.append(answer.json()["id"])

    async def work(self) -> None:
        engine = self.api.engine
        self.leases += engine.lease(self.dice.randint(1, 3))
        self.dice.shuffle(self.leases)
        while self.leases and self.dice.random() < 0.7:
            lease = self.leases.pop()
            engine.report(lease, progress={"percentage": self.dice.randint(0, 100)})
            outcome = self.dice.choice(["completed", "retry", "failed", "waiting", "released"])
            said = engine.settle(lease, outcome, wait=ask(), error={"type": "E", "message": "m"})
            assert said["outcome"] in {"applied", "cancelled", "stale"}

    async def time(self) -> None:
        self.api.engine.advance(self.dice.choice([1, 61, 700]))
        self.api.engine.maintain()

    async def look(self) -> None:
        """A list, a job and its story say the same to its people."""
        job_id = self.dice.choice(self.jobs)
        one = (await self.api.call("GET", f"/api/jobs/{job_id}")).json()
        assert one["status"] == self.api.engine.status(job_id)
        where = f"/api/jobs?workspace_id={ACME}&limit=200"
        listed = {job["id"]: job for job in (await self.api.call("GET", where)).json()["jobs"]}
        assert set(listed) == set(self.jobs)
        assert listed[job_id]["status"] == one["status"]
        told = (await self.api.call("GET", f"/api/jobs/{job_id}/explain")).json()
        assert told["status"] == one["status"]

    async def end(self) -> None:
        for job_id in self.jobs:
            path = f"/api/jobs/{job_id}/events"
            seqs: list[int] = []
            while True:
                page = await self.api.call("GET", f"{path}?after={len(seqs)}&limit=3")
                events = page.json()["events"]
                seqs += [event["seq"] for event in events]
                if not events:
                    break
            assert seqs == list(range(1, len(seqs) + 1)), seqs
            assert (await self.api.call("GET", path, user=EVE)).status_code == 404


@pytest.mark.parametrize("seed", range(4))
async def test_no_history_is_answered_otherwise_than_its_states_allow(api: Api, seed: int) -> None:
    history = History(api, random.Random(seed))
    for _ in range(3):
        await history.enqueue()
    steps = [history.enqueue, *[history.steer] * 4, *[history.work] * 2, history.time, history.look]
    for _ in range(50):
        await history.dice.choice(steps)()
    await history.end()
