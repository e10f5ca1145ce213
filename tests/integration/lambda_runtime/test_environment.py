"""What Lambda does to a process, done to real processes running AWS's own runtime client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from supabase_local.lambda_runtime import Function, FunctionConfig, Invocation, TooManyRequests
from tests.support.killable import until

HERE = Path(__file__).parent


@asynccontextmanager
async def function(handler: str, **settings: Any) -> AsyncIterator[Function]:
    """A function of `sample_handlers`, or of a module that is named; stopped at the end."""
    settings.setdefault("timeout", 60)
    if "." not in handler:
        handler = f"sample_handlers.{handler}"
    name = f"test-{handler.rpartition('.')[2]}"
    made = Function(FunctionConfig(name=name, handler=handler, task_root=HERE, **settings))
    try:
        yield made
    finally:
        await made.stop()


def event(**fields: Any) -> Invocation:
    return Invocation(json.dumps(fields).encode())


async def test_an_environment_is_reused_and_keeps_its_globals() -> None:
    """Clients and caches live in globals: the second call must find them warm."""
    async with function("count", memory_mb=512) as counting:
        first = (await counting.invoke(event(x=1))).json()
        second = (await counting.invoke(event(x=2))).json()

    assert (first["calls"], second["calls"]) == (1, 2)
    assert first["pid"] == second["pid"]
    assert second["echo"] == {"x": 2}
    assert second["memory"] == "512"
    assert second["arn"].endswith(":function:test-count")


async def test_the_handler_sees_its_own_deadline_and_trace() -> None:
    """A tick plans by the remaining time, so it has to be the true one."""
    invocation = Invocation(b"{}", trace_id="Root=1-00000001-000000000000000000000001;Sampled=1")
    async with function("count", timeout=50) as counting:
        seen = (await counting.invoke(invocation)).json()

    assert 0 < seen["remaining_ms"] <= 50_000
    assert seen["trace"] == invocation.trace_id
    assert seen["request_id"] == invocation.request_id


async def test_nothing_of_the_launchers_environment_leaks_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable that only this shell has would work here and be missing on Lambda."""
    monkeypatch.setenv("SECRET_OF_THE_LAUNCHER", "x")
    async with function("count") as counting:
        seen = (await counting.invoke(event())).json()

    assert seen["secret_of_the_launcher"] is None


async def test_the_deadline_kills_without_finally(tmp_path: Path) -> None:
    """Nothing after the deadline may be relied on: an expired lease is the only rescue."""
    mark = tmp_path / "mark"
    mark.touch()
    for seconds in (1, 4, 16):  # longer where a busy machine was killed before the handler ran
        async with function("hang", timeout=seconds) as hanging:
            outcome = await hanging.invoke(event(mark=str(mark)))
            left = hanging.environments
        if mark.read_text():
            break

    assert outcome.error == "Sandbox.Timedout"
    assert f"Task timed out after {seconds}.00 seconds" in outcome.json()["errorMessage"]
    assert mark.read_text() == "entered"
    assert left == ()


async def test_after_a_kill_the_next_invocation_is_a_cold_start(tmp_path: Path) -> None:
    """A dead environment must never be handed out again."""
    async with function("hang", timeout=0.5) as hanging:
        await hanging.invoke(event(mark=str(tmp_path / "a")))
        outcome = await hanging.invoke(event(mark=str(tmp_path / "b")))

    assert hanging.started == 2
    assert outcome.init_ms is not None


async def test_a_crashing_process_is_an_error_of_its_own_kind() -> None:
    """An exit in the middle looks different from a raised exception."""
    async with function("crash") as crashing:
        outcome = await crashing.invoke(event())

    assert outcome.error == "Runtime.ExitError"
    assert "exit status 7" in outcome.json()["errorMessage"]


async def test_a_raised_exception_keeps_the_environment_and_shows_type_and_trace(
    tmp_path: Path,
) -> None:
    """Lambda reuses an environment whose handler raised."""
    async with function("fail") as failing:
        first = await failing.invoke(event(mark=str(tmp_path / "m")))
        await failing.invoke(event(mark=str(tmp_path / "m")))

    assert first.json()["errorType"] == "ValueError"
    assert first.json()["errorMessage"] == "this handler always fails"
    assert first.json()["stackTrace"]
    assert b"about to raise" in first.log_tail
    assert failing.started == 1


async def test_a_handler_that_cannot_be_imported_says_which_module() -> None:
    """The commonest packaging fault has to name itself."""
    async with function("broken_import.handler") as broken:
        outcome = await broken.invoke(event())

    assert outcome.error == "Runtime.ImportModuleError"
    assert "module_that_is_not_in_the_zip" in outcome.json()["errorMessage"]


async def test_between_invocations_the_process_is_frozen(tmp_path: Path) -> None:
    """A background thread does not run between invocations: reports must be flushed before."""
    mark = tmp_path / "beats"
    async with function("background") as beating:
        started = (await beating.invoke(event(mark=str(mark), start=True))).json()
        process = psutil.Process(started["pid"])
        await until(lambda: process.status() == psutil.STATUS_STOPPED)
        before = mark.stat().st_size
        await asyncio.sleep(0.2)
        during = mark.stat().st_size
        await beating.invoke(event(mark=str(mark)))
        after = mark.stat().st_size

    assert before == during
    assert after > before > 0
    assert not psutil.pid_exists(started["pid"])


async def test_concurrent_invocations_get_environments_of_their_own_up_to_the_cap(
    tmp_path: Path,
) -> None:
    """Reserved concurrency is the true cap on the database's load."""
    gate = tmp_path / "gate"
    async with function("count", max_concurrency=2) as counting:
        running = [asyncio.create_task(counting.invoke(event(until=str(gate)))) for _ in range(2)]
        await until(lambda: len(counting.environments) == 2)
        with pytest.raises(TooManyRequests):
            await counting.invoke(event())
        gate.touch()
        pids = {(await task).json()["pid"] for task in running}
        again = (await counting.invoke(event())).json()

    assert len(pids) == 2
    assert again["pid"] in pids


async def test_idle_environments_are_taken_away_after_a_while() -> None:
    """Frozen environments do not stay for ever; the next call is cold again."""
    async with function("count", keep_idle=0.0) as counting:
        pid = (await counting.invoke(event())).json()["pid"]
        gone = await counting.expire_idle()
        again = (await counting.invoke(event())).json()

    assert gone == 1
    assert again["pid"] != pid
    assert again["calls"] == 1


async def test_stopping_ends_every_process() -> None:
    """No launcher may leave frozen children behind."""
    async with function("count") as counting:
        outcomes = await asyncio.gather(*(counting.invoke(event(seconds=0.2)) for _ in range(3)))
        pids = [outcome.json()["pid"] for outcome in outcomes]

    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert os.getpid() not in pids


LAUNCHER = """
import asyncio, sys
from pathlib import Path
from supabase_local.lambda_runtime import Function, FunctionConfig, Invocation

async def main():
    config = FunctionConfig(name="t", handler="sample_handlers.count", task_root=Path(sys.argv[1]))
    outcome = await Function(config).invoke(Invocation(b"{}"))
    print(outcome.json()["pid"], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_launcher_leaves_no_frozen_process() -> None:
    """A stopped child cannot notice by itself that nobody will wake it again."""
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LAUNCHER, str(HERE), stdout=asyncio.subprocess.PIPE
    )
    assert launcher.stdout is not None
    async with asyncio.timeout(120):
        pid = int(await launcher.stdout.readline())

    launcher.kill()
    await launcher.wait()

    await until(lambda: not psutil.pid_exists(pid))
