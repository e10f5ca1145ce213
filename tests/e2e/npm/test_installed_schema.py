"""Both clients in a project that `minutehand install` made: in the schema it chooses by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minutehand.client import Client
from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.support.official import official
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack, end, launch, wait_ready
from tests.support.stranger import Stranger

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(300),  # an install, a stack and npm before the first
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

PROGRAM = """\
import { createClient } from "@supabase/supabase-js";
import { enqueue, watchJob, type Database } from "minutehand";
declare const process: { env: Record<string, string>; exit(code: number): never };
const { url = "", key = "", email = "", password = "", workspace_id = "" } = process.env;

const supabase = createClient<Database>(url, key);
await supabase.auth.signInWithPassword({ email, password });
const { job } = await enqueue(supabase, "jobs.hello", { name: "Ada" }, { workspace_id });
const ended = await watchJob<"jobs.hello">(supabase, job.id).ended;
const { data } = await supabase.schema("minutehand").rpc("explain_job", { p_job_id: job.id });
console.log(ended.status, data?.reason);
process.exit(0);
"""


def environment(project: Path) -> dict[str, str]:
    """What a shell in that folder would have."""
    path = f"{ROOT / 'shared'}:{project}"
    return {"MINUTEHAND_PROJECT": str(project), "PYTHONPATH": path}


def command(project: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "minutehand.cli", *words],
        cwd=project, check=True, capture_output=True, text=True,
        env={**os.environ, **environment(project)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which the engine was installed, every question answered by default."""
    folder = tmp_path_factory.mktemp("project")
    command(folder, "install", "--yes")
    return folder


@pytest.fixture(scope="module")
def installed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """That project's stack, with Ada in a workspace; its own worker runs its own processor."""
    folder = tmp_path_factory.mktemp("installed")
    launcher = launch(folder, "--no-demo", **environment(project))
    try:
        running = wait_ready(folder, launcher)
        yield running
    finally:
        end(folder, launcher)


async def test_python_sees_its_job_to_completed_without_naming_a_schema(
    installed: RunningStack,
) -> None:
    """The default of the client is the default of the install."""
    async with official(installed.supabase_url, installed.supabase_publishable_key) as supabase:
        client = Client(supabase, token=installed.sign_in(ADA.email))
        made = await client.enqueue(
            "jobs.hello", {"name": "Ada"}, workspace_id=installed.demo_workspace_id
        )
        async with asyncio.timeout(100), client.watch_job(made.job.id) as watcher:
            job = await watcher.ended()

    assert (job.status, job.result) == ("completed", {"greeting": "Hello, Ada!"})


def test_typescript_sees_its_job_to_completed_without_naming_a_schema(
    installed: RunningStack, stranger: Stranger
) -> None:
    """From the archive."""
    (stranger.folder / "hello.d.ts").write_text('import "minutehand";\n')
    (stranger.folder / "hello.ts").write_text(PROGRAM)
    assert stranger.compile("hello.ts", types="hello.d.ts") == ""

    run = subprocess.run(
        [str(node_binary()), "out/hello.js"],
        cwd=stranger.folder, capture_output=True, text=True, timeout=100, check=False,
        env={
            "url": installed.supabase_url, "key": installed.supabase_publishable_key,
            "email": ADA.email, "password": installed.demo_password,
            "workspace_id": installed.demo_workspace_id,
        },
    )  # fmt: skip

    assert (run.returncode, run.stdout) == (0, "completed completed\n"), run.stderr
