"""`minutehand init`: a new app with one processor and its test, ready to run.

In the clone it writes into shared/minutehand/apps/<app> and tests/unit/<app>, in an installed
project into the package that minutehand.toml names; it overwrites nothing.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from minutehand.install.project import Plan, processor_files
from minutehand.install.sources import InstallError
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import Json, speaking

MODELS = '''"""What the {app} app's jobs carry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class {model}(BaseModel):
    """The payload of `{job_type}`; the queue refuses what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
'''

PROCESSORS = '''"""The {app} app's processors."""

from __future__ import annotations

from typing import Any

from minutehand.apps.{app}.models import {model}
from minutehand.worker import Backoff, Job, JobContext, processor


@processor(
    "{job_type}",
    payload={model},
    timeout=120,
    backoff=Backoff(first=60, cap=3600),
)
async def {function}(job: Job[{model}], ctx: JobContext) -> dict[str, Any]:
    """Greet by name; a retry resumes after the last finished step."""
    ctx.progress(10, "start")

    async def greet() -> str:
        return f"Hello, {{job.payload.name}}!"

    greeting = await ctx.step("greet", greet)
    ctx.log("info", "Greeting written", length=len(greeting))
    ctx.progress(100, "done")
    return {{"greeting": greeting}}
'''

TEST = '''"""The {app} app's processors, rehearsed without a queue."""

from __future__ import annotations

from minutehand.apps.{app}.models import {model}
from minutehand.apps.{app}.processors import {function}
from minutehand.worker.testing import Rehearsal


async def test_{function}_greets_by_name() -> None:
    """The result is what the caller reads on the job."""
    run = await Rehearsal({function}, {model}(name="Ada")).run()

    assert run.outcome == "completed"
    assert run.result == {{"greeting": "Hello, Ada!"}}
    assert run.messages == ["Greeting written"]
'''


def init(
    job_type: Annotated[str, typer.Argument(help="<app>.<verb>, e.g. greetings.send.")],
    *,
    root: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Scaffold an app with one processor and its test."""
    with speaking(as_json) as output:
        project = Project.find() if root is None else Project(root=root)
        root = project.root
        app = job_type.partition(".")[0]
        # the clone's apps are found by a wildcard; elsewhere the project names its own package
        own = next((name for name in project.apps if (root / name).is_dir()), None)
        if own is None:
            made, test = scaffold(job_type, root), f"make test ARGS=tests/unit/{app}"
        else:
            made, test = scaffold_in(own, job_type, root), f"pytest {own}"
        written = [str(path.relative_to(root)) for path in made]
        lines = [
            *written,
            f"Try it: {test}",
            "A running local stack finds it within seconds; a deployed one with the next deploy.",
            f"""Run it: minutehand enqueue {job_type} '{{"name": "Ada"}}' --watch""",
        ]
        output.value({"job_type": job_type, "written": written}, text="\n".join(lines))


def scaffold_in(package: str, job_type: str, root: Path) -> list[Path]:
    """Add a module to the processors of a project's own package, and its test; return the paths.

    Raises:
        CommandFailed: The name does not fit, or the module is already there.
    """
    _words(job_type)
    try:
        plan = Plan(tuple(processor_files(root, package, job_type)))
        plan.apply()
    except InstallError as error:
        raise CommandFailed(str(error), code=error.code, fix=error.fix) from error
    return [write.path for write in plan.writes]


def _words(job_type: str) -> tuple[str, str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", job_type):
        raise CommandFailed(
            f"{job_type!r} must be <app>.<verb> in lower case",
            code="bad_name",
            fix="e.g. greetings.send",
        )
    app, _, verb = job_type.partition(".")
    if keyword.iskeyword(app) or keyword.iskeyword(verb):
        raise CommandFailed(
            f"{job_type!r} uses a word of Python", code="bad_name", fix="take another word"
        )
    return app, verb


def scaffold(job_type: str, root: Path) -> list[Path]:
    """Write the files and return their paths.

    Raises:
        CommandFailed: The name does not fit, or the app is already there.
    """
    app, verb = _words(job_type)
    home = root / "shared" / "minutehand" / "apps" / app
    tests = root / "tests" / "unit" / app
    if home.exists() or tests.exists():
        there = home if home.exists() else tests
        raise CommandFailed(
            f"{there.relative_to(root)} is already there",
            code="exists",
            fix="add the processor to that app by hand, or take another name",
        )
    names = {
        "app": app,
        "job_type": job_type,
        "function": f"{verb}_{app}",
        "model": "".join(part.capitalize() for part in (*verb.split("_"), *app.split("_"))),
    }
    files = {
        home / "__init__.py": f'"""The {app} app."""\n',
        home / "models.py": MODELS.format(**names),
        home / "processors.py": PROCESSORS.format(**names),
        tests / f"test_{app}_processors.py": TEST.format(**names),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(files)
