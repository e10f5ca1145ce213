"""A Next.js project that follows the page about a streaming chat, with its stack."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.release.supabase_cli import CACHE
from infra.release.wheels import Environment
from minutehand.node import node_binary
from tests.e2e.npm.stranger import npm
from tests.support.paths import ROOT
from tests.support.shared import made_once_in
from tests.support.stacks import RunningStack, project_stack
from tests.support.stranger import write_files

PAGE = ROOT / "shared" / "minutehand" / "pages" / "nextjs.md"
#: A project of `create-next-app` with pages for the tests. Its lock file pins the versions.
PROJECT = ROOT / "tests" / "fixtures" / "nextjs"
#: A fake model whose answers a test writes. Each attempt reads its answer from its own file.
PACED = """\
import asyncio
import json
from pathlib import Path

from minutehand import Backoff, Fail, Job, JobContext, processor

from jobs.processors.reply import Chat

SCRIPTS = Path(__file__).parents[2] / "scripts"


@processor("jobs.paced", payload=Chat, lease=10, backoff=Backoff(first=1, cap=1))
async def paced(job: Job[Chat], ctx: JobContext) -> dict[str, int] | Fail:
    script = SCRIPTS / f"{job.session_id}.{job.attempt}"
    done = 0
    async with ctx.stream("reply") as words:
        while True:
            lines = script.read_text().splitlines() if script.exists() else []
            for line in lines[done:]:
                verb, _, text = line.partition(" ")
                if verb == "say":
                    words.write(f"{text} ")
                elif verb == "item":
                    words.write(json.loads(text.replace("JOB", job.id)))
                elif verb == "end":
                    return {"lines": len(lines)}
                elif verb == "fail":
                    return Fail(text)
            done = len(lines)
            await asyncio.sleep(0.02)
"""


@dataclass(frozen=True)
class Site:
    """A running chat site, and the file with its model's answers."""

    url: str
    stack: RunningStack
    folder: Path

    def say(self, chat: str, *lines: str, mode: str = "a") -> None:
        """Write lines for a chat's first attempt: `say …`, `item …`, `end` or `fail …`.

        In an item, `JOB` is the id of the job.
        """
        with (self.folder / "scripts" / f"{chat}.1").open(mode) as script:
            script.writelines(f"{line}\n" for line in lines)

    def jobs(self, chat: str) -> list[tuple[str, int]]:
        """Return status and attempts of each job of a chat, the oldest first."""
        asked = (
            "select status::text, attempts from minutehand.jobs where session_id = %s order by id"
        )
        return self.stack.run(asked, chat)


def files_of(page: Path) -> dict[str, str]:
    """Return the files that a page's code blocks define, by path."""
    block = r"^[^`\n]*`([\w/.\[\]]+\.(?:py|tsx?))`[^\n]*\n```(?:python|tsx?)\n(.*?)```"
    return dict(re.findall(block, page.read_text(), re.DOTALL | re.MULTILINE))


def write_project(folder: Path, environment: Environment, package: Path) -> None:
    """Follow the page up to its last command, with the built package and wheel."""
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True)
    packages = made_once_in(_kept("packages"), _install)
    # Link the node modules, because they take 400 MB and nothing writes into them.
    subprocess.run(["cp", "-al", f"{packages}/node_modules", folder], check=True)
    shutil.copytree(package, folder / "node_modules" / "minutehand")
    environment.minutehand(folder, "install", ".", "--tenancy", "personal")
    write_files(folder, {**files_of(PAGE), "jobs/processors/paced.py": PACED})
    (folder / "scripts").mkdir()


def _kept(name: str) -> Path:
    """Return a folder for this lock file that later test runs use again."""
    lock = hashlib.sha256((PROJECT / "package-lock.json").read_bytes()).hexdigest()
    return CACHE / f"nextjs-{name}-{lock[:16]}"


def _install(folder: Path) -> None:
    for file in (PROJECT / "package.json", PROJECT / "package-lock.json"):
        shutil.copy(file, folder)
    npm(folder, "ci")


@contextmanager
def running_site(folder: Path, environment: Environment) -> Iterator[Site]:
    """Build a project, and serve it with its own stack."""
    with project_stack(environment, folder) as stack:
        (folder / ".env.local").write_text(
            f"NEXT_PUBLIC_SUPABASE_URL={stack.supabase_url}\n"
            f"NEXT_PUBLIC_SUPABASE_PUBLISHABLE_KEY={stack.supabase_publishable_key}\n"
        )
        with _served(folder) as url:
            yield Site(url, stack, folder)


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    next_ = [str(node_binary()), "node_modules/next/dist/bin/next"]
    environ = {"PATH": str(node_binary().parent), "NEXT_TELEMETRY_DISABLED": "1", "CI": "1"}
    environ["NODE_COMPILE_CACHE"] = os.environ["NODE_COMPILE_CACHE"]
    # Next caches by the content of files. With the first build's cache, a build takes a third.
    cache, first = folder / ".next" / "cache", _kept("built")
    if first.with_name(f"{first.name}.whole").exists():
        shutil.copytree(first, cache)
    built = subprocess.run(
        [*next_, "build"], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    made_once_in(first, lambda kept: shutil.copytree(cache, kept, dirs_exist_ok=True))
    with subprocess.Popen(
        [*next_, "start", "--port", "0"],
        cwd=folder,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as server:
        try:
            assert server.stdout is not None
            result = ""
            while not (found := re.search(r"http://localhost:\d+", result)):
                line = server.stdout.readline()
                assert line, result
                result += line
            yield found[0]
        finally:
            server.terminate()
