"""The doctor in use: after a random fault, its fix is pasted unchanged, and all checks pass.

DOCTOR_SEED repeats a run, and DOCTOR_DRAWS is the number of faults.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import psycopg
import pytest

from minutehand.cli.doctor.findings import Finding
from tests.integration.cli.faults import SEED, Fault, World, draw, list_faults
from tests.support.patience import until
from tests.support.stacks import RunningStack, running_stack

DRAWS = int(os.environ.get("DOCTOR_DRAWS") or (200 if "WEEKLY" in os.environ else 6))


@pytest.mark.timeout(60 + 20 * DRAWS)
def test_a_random_fault_is_named_and_goes_by_one_paste(tmp_path: Path) -> None:
    """19 of 20 are named by their object or setting, and all checks pass after the first fix."""
    rng, misses = random.Random(SEED), []
    with ExitStack() as ends:
        stack = ends.enter_context(running_stack(tmp_path / "0"))
        faults = list(list_faults(stack))
        for number in range(DRAWS):
            fault, world = plant(stack, faults, rng)
            findings = world.wrong()
            named = any(fault.word in f"{each.detail} {each.fix}" for each in findings)
            if fault.is_setting:  # its consequences are not reported, because they would hide it
                named = named and len({each.check for each in findings}) == 1
            green = is_mended(world, findings)
            misses += [] if named and green else [(named, green, fault.text, findings)]
            if not green:  # the next fault needs a sound stack
                ends.close()
                stack = ends.enter_context(running_stack(tmp_path / str(number)))
                faults = list(list_faults(stack))

    counts = [DRAWS - sum(not miss[at] for miss in misses) for at in (0, 1)]
    print(f"{DRAWS} faults of seed {SEED}: {counts[0]} named, {counts[1]} mended by the first fix")
    assert min(counts) >= 0.95 * DRAWS, misses


def plant(stack: RunningStack, faults: list[Fault], rng: random.Random) -> tuple[Fault, World]:
    """Draw and plant a fault, again if Postgres rejects it."""
    while True:
        fault, world = draw(faults, rng), World(stack)
        try:
            world.plant(fault)
        except psycopg.Error:
            continue
        return fault, world


def is_mended(world: World, findings: list[Finding]) -> bool:
    """Paste the fixes once, and return whether all checks pass."""
    try:
        world.paste(findings)
        if [finding for finding in world.wrong() if finding.check != "schedule"]:
            return False
    except (psycopg.Error, AssertionError):
        return False
    until(lambda: not world.wrong(), every=1)  # a tick may be late on a busy machine
    return True


def test_a_wrong_clock_goes_by_its_fix(stack: RunningStack) -> None:
    """The server's clock is read from the headers of its responses."""
    world = World(stack)
    # other tests of the shared stack may have left findings, for example a paused job type
    before = {finding.check for finding in world.wrong()}
    with skewed(stack.values["SUPABASE_URL"], world) as url:
        world.values["SUPABASE_URL"] = url

        findings = [finding for finding in world.wrong() if finding.check not in before]
        world.paste(findings)

        assert [finding.check for finding in findings] == ["clock"]
        assert {finding.check for finding in world.wrong()} <= before


@contextmanager
def skewed(url: str, world: World) -> Iterator[str]:
    """Run a proxy whose clock is an hour ahead until this machine's clock is corrected."""

    class Skewed(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            ahead = timedelta(hours=0 if world.clock_is_right else 1)
            return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

        def do_GET(self) -> None:
            headers = {name: self.headers[name] for name in self.headers if name != "Host"}
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            response = httpx.request(
                self.command, url + self.path, headers=headers, content=body, timeout=60
            )
            self.send_response(response.status_code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Skewed) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
