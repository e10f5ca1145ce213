"""`minutehand init`: a new app with one processor and its test, ready to run.

In the clone it writes into shared/minutehand_apps/<app> and tests/unit/<app>, in an installed
project into the package that minutehand.toml names; it overwrites nothing.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from minutehand.install.project import FUNCTION, PAYLOAD, Plan, package_folder, processor_files
from minutehand.install.sources import InstallError
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

FOUND = "A running local stack finds it within seconds, a deployed one with the next deploy."
#: A payload of the first processor.
GREETING = '{"name": "Ada"}'

MODELS = f'''"""What the {{app}} app's jobs carry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


{PAYLOAD}'''

PROCESSORS = f'''"""The {{app}} app's processors."""

from __future__ import annotations

from minutehand.worker import Backoff, Job, JobContext, processor
from minutehand_apps.{{app}}.models import {{model}}


{FUNCTION}'''

TEST = '''"""The {app} app's processors, tested without a queue."""

from __future__ import annotations

from minutehand.worker.testing import ProcessorTest
from minutehand_apps.{app}.models import {model}
from minutehand_apps.{app}.processors import {function}


async def test_{function}_greets_by_name() -> None:
    """The result is what the caller reads on the job."""
    run = await ProcessorTest({function}, {model}(name="Ada")).run()

    assert run.outcome == "completed"
    assert run.result == {{"greeting": "Hello, Ada!"}}
    assert run.messages == ["Greeting written"]
'''


@verb
def init(
    output: Output,
    job_type: Annotated[str, typer.Argument(help="<app>.<verb>, e.g. greetings.send.")],
) -> None:
    """Scaffold one processor and its test."""
    project = Project.find()
    root = project.root
    app = job_type.partition(".")[0]
    # the clone's apps are found by a wildcard; elsewhere the project names its own package
    homes = {
        name: source
        for name in project.apps
        for source in project.import_roots
        if package_folder(source, name).is_dir()
    }
    own = next(iter(homes), None)
    if own is None:
        made = scaffold(job_type, root)
        test = f"make test ARGS=tests/unit/{app}"
    else:
        _words(job_type)
        plan = Plan(tuple(processor_files(homes[own], own, job_type)))
        try:
            plan.apply()
        except InstallError as error:
            raise CommandFailed(str(error), code=error.code, fix=error.fix) from error
        made = [write.path for write in plan.writes]
        test = f"pytest {package_folder(homes[own], own).relative_to(root)}"
    written = [str(path.relative_to(root)) for path in made]
    lines = [*written, f"Try it: {test}"]
    lines += [FOUND, f"Run it: minutehand enqueue {job_type} '{GREETING}' --watch"]
    output.value({"job_type": job_type, "written": written}, text="\n".join(lines))


def _words(job_type: str) -> tuple[str, str]:
    app, _, verb = job_type.partition(".")
    named = re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", job_type)
    if not named or keyword.iskeyword(app) or keyword.iskeyword(verb):
        raise CommandFailed(
            f"{job_type!r} must be <app>.<verb> in lower case, no words of Python",
            code="bad_name",
            fix="e.g. greetings.send",
        )
    return app, verb


def scaffold(job_type: str, root: Path) -> list[Path]:
    """Write the files and return their paths."""
    app, verb = _words(job_type)
    home = root / "shared" / "minutehand_apps" / app
    tests = root / "tests" / "unit" / app
    if home.exists() or tests.exists():
        there = home if home.exists() else tests
        raise CommandFailed(
            f"{there.relative_to(root)} is already there",
            code="exists",
            fix="add the processor to that app yourself, or choose another name",
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
