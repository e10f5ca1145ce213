"""What an install writes beside the migrations: settings, the first processor.

Every write is planned first, so that `--dry-run` says exactly what would happen, and none replaces
a file that is there.
"""

from __future__ import annotations

import keyword
import posixpath
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

from minutehand.app import built_in
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import (
    InstallError,
    installed_release,
    migration,
    sources,
    sources_since,
    timestamp,
)
from minutehand.install.tenancy import Tenants
from minutehand.project import FILE, Project

SETTINGS_EXAMPLE = "minutehand.env.example"
#: What the pages of deployment let one write beside the code.
SECRET_FILES = (".env", "*.env", "key.json", "build/")
#: With what a run of the processors leaves there.
OUR_FILES = (*SECRET_FILES, "__pycache__/")
#: What the Supabase CLI keeps beside the code; `supabase init` makes a .gitignore of its own.
CLI_FILES = ("supabase/.branches/", "supabase/.temp/")
#: Our migrations, as a project that declares its schema lists them.
OURS = "./migrations/*_minutehand_*.sql"
#: What the CLI exposes where config.toml does not say.
EXPOSED = ["public", "graphql_public"]

ANSWERS = """\
# Written by `minutehand install`; read by the command, the local stack and the packager.
name = "{name}" # of its stack on AWS
apps = [{apps}]
schema = "{schema}" # where clients see jobs
tenancy = "{tenancy}"
{source}"""

SETTINGS = """\
# What the worker and the functions read; copy to .env and fill in. Keep the copy out of git.
SUPABASE_URL=https://abcdefghijkl.supabase.co
SUPABASE_PUBLISHABLE_KEY=sb_publishable_…
# signs the worker in: Project settings → JWT keys (legacy secret), or SUPABASE_WORKER_KEY
SUPABASE_JWT_SECRET=
# of your own making; callers of POST /api/jobs/worker present it
WORKER_SECRET_TOKEN=
MINUTEHAND_APPS={apps}
MINUTEHAND_SCHEMA={schema}
"""

CONFIG = """\
# For the Supabase CLI; see https://supabase.com/docs/guides/local-development/cli/config
project_id = "{name}"

[api]
schemas = [{schemas}]

[db]
major_version = 17
"""

PROCESSOR = '''"""`{job_type}`: greets by name."""

from minutehand.worker import Job, JobContext, processor
from pydantic import BaseModel, ConfigDict, Field


class {model}(BaseModel):
    """The payload of `{job_type}`; the queue refuses what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)


@processor("{job_type}", payload={model}, timeout=120)
async def {function}(job: Job[{model}], ctx: JobContext) -> dict[str, str]:
    """Greet by name; a retry resumes after the last finished step."""
    ctx.progress(10, "start")

    async def greet() -> str:
        return f"Hello, {{job.payload.name}}!"

    greeting = await ctx.step("greet", greet)
    ctx.log("info", "Greeting written", length=len(greeting))
    ctx.progress(100, "done")
    return {{"greeting": greeting}}
'''

PROCESSOR_TEST = '''"""`{job_type}`, tried without a queue."""

import asyncio

from minutehand.worker.testing import ProcessorTest

from {package}.processors.{module} import {model}, {function}


def test_{function}_greets_by_name() -> None:
    run = asyncio.run(ProcessorTest({function}, {model}(name="Ada")).run())

    assert run.outcome == "completed"
    assert run.result == {{"greeting": "Hello, Ada!"}}
'''


@dataclass(frozen=True)
class FileWrite:
    """One file to be made."""

    path: Path
    text: str


@dataclass(frozen=True)
class Plan:
    """What is to be written, and what only the project's owner can do."""

    writes: tuple[FileWrite, ...]
    notes: tuple[str, ...] = ()

    def apply(self) -> None:
        """Make the files, each whole or not at all.

        Raises:
            InstallError: A file has appeared meanwhile.
        """
        for write in self.writes:
            write.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with write.path.open("x", encoding="utf-8") as file:
                    file.write(write.text)
            except FileExistsError as error:
                raise InstallError(
                    f"{write.path} exists by now", code="exists", fix="run the command again"
                ) from error


@dataclass(frozen=True)
class Answers:
    """The answers given to an install."""

    schemas: Schemas
    tenants: Tenants
    package: str = "jobs"
    #: The folder of the package within the project, as of a backend in a monorepo.
    source: str = ""
    #: Apps of Minutehand that are taken out, by their names in `apps` of the project's answers.
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.schemas.clients, self.schemas.engine):
            if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name) or name.startswith("pg_"):
                raise InstallError(
                    f"{name!r} must be of a-z, 0-9 and _, and begin with no digit or pg_",
                    code="bad_schema",
                    fix="e.g. --schema minutehand",
                )
        taken = {*sys.stdlib_module_names, *keyword.kwlist, "minutehand", "supabase"}
        names = self.package.split(".")
        if not all(re.fullmatch(r"[a-z_][a-z0-9_]*", name) for name in names) or taken & set(names):
            raise InstallError(
                f"{self.package!r} cannot be the name of a package",
                code="bad_package",
                fix="e.g. --package jobs",
            )


def plan_install(folder: Path, answers: Answers, *, now: datetime) -> Plan:
    """Decide what an install writes into `folder`; nothing where it has everything already.

    Raises:
        InstallError: Something in the folder conflicts with it.
    """
    known = _known_answers(folder)
    if known is not None:
        _check_same(known, answers)
    writes = missing_files(folder, answers, now=now)
    writes += _new(folder, FILE, _answers_file(folder, answers)) if known is None else []
    if known is None or answers.package in known.packages:
        writes += _first_processor(
            folder / answers.source, answers.package, again=known is not None
        )
    ignored, notes = _ignored(folder)
    settings = SETTINGS.format(
        apps=",".join([answers.package, *answers.without]), schema=answers.schemas.clients
    )
    settings_file = _new(folder, SETTINGS_EXAMPLE, settings)
    config, config_notes = _config(folder, answers.schemas.clients)
    return Plan((*writes, *ignored, *settings_file, *config), (*notes, *config_notes))


def missing_files(folder: Path, answers: Answers, *, now: datetime) -> list[FileWrite]:
    """One migration with all that the project does not have, after its newest; or none."""
    since = installed_release(folder)
    apps = built_in(answers.without)
    missing = (
        sources(answers.schemas, answers.tenants, apps)
        if since is None
        else sources_since(since, answers.schemas, apps)
    )
    if not missing:
        return []
    name, text = migration(missing)
    path = folder / "supabase" / "migrations" / f"{timestamp(folder, now)}_{name}.sql"
    return [FileWrite(path, text)]


def _known_answers(folder: Path) -> Project | None:
    project = Project.at(folder)
    # the defaults alone mean that nothing was answered
    return None if project == Project(root=folder) else project


def _check_same(known: Project, answers: Answers) -> None:
    own = known.packages
    if own and answers.package not in own and not own[0].endswith(".*"):
        raise InstallError(
            f"the package of this project is {own[0]}",
            code="installed_otherwise",
            fix=f'for one more, make it and add "{answers.package}" to apps in {FILE}',
        )
    if answers.without != known.without:
        raise InstallError(
            f"Minutehand is installed here with other apps: {FILE} names those that are taken out",
            code="installed_otherwise",
            fix="minutehand docs webhooks  # says how to take them out of a project that has them",
        )
    now = (answers.schemas.clients, answers.tenants.kind)
    before = (known.schema_, known.tenancy)
    if now != before:
        raise InstallError(
            f"Minutehand is installed here with --schema {before[0]} --tenancy {before[1]}",
            code="installed_otherwise",
            fix="pass the same options, or remove it first: minutehand uninstall",
        )


def _first_processor(folder: Path, package: str, *, again: bool) -> list[FileWrite]:
    home = package_folder(folder, package)
    if (home.exists() or home.with_suffix(".py").exists()) and not again:
        raise InstallError(
            f"{package} already exists", code="package_taken", fix="--package NAME, e.g. work"
        )
    if home.exists():
        return []
    return processor_files(folder, package, f"{package.rpartition('.')[2]}.hello")


def package_folder(source: Path, package: str) -> Path:
    """Where a package lies below the folder that it is imported from."""
    return source.joinpath(*package.split("."))


def processor_files(folder: Path, package: str, job_type: str) -> list[FileWrite]:
    """The files of one more processor of a package, imported from `folder`, and of its test.

    Raises:
        InstallError: One of them is there, or the package has its processors in one module.
    """
    names = processor_names(package, job_type)
    module = names["module"]
    home = package_folder(folder, package)
    made = []
    if not home.exists():
        new = [part for part in home.parents[: package.count(".")] if not part.exists()]
        made = [
            *(FileWrite(part / "__init__.py", "") for part in new),  # else pytest finds no package
            FileWrite(home / "__init__.py", '"""Background jobs of this project."""\n'),
            FileWrite(home / "processors" / "__init__.py", '"""A module per job type or two."""\n'),
            FileWrite(home / "tests" / "__init__.py", ""),
        ]
    made += [
        FileWrite(home / "processors" / f"{module}.py", PROCESSOR.format(**names)),
        FileWrite(home / "tests" / f"test_{module}.py", PROCESSOR_TEST.format(**names)),
    ]
    for path in (home / "processors.py", *(write.path for write in made)):
        if path.exists():
            raise InstallError(
                f"{path.relative_to(folder)} already exists",
                code="exists",
                fix="choose another name, or add the processor yourself",
            )
    return made


def processor_names(package: str, job_type: str) -> dict[str, str]:
    """What a processor's module, function and payload are called."""
    app, _, verb = job_type.partition(".")
    named = package.rpartition(".")[2]
    module, function = (verb, verb) if app == named else (f"{app}_{verb}", f"{verb}_{app}")
    return {
        "package": package,
        "module": module,
        "job_type": job_type,
        "function": function,
        "model": "".join(part.capitalize() for part in function.split("_")),
    }


def _ignored(folder: Path) -> tuple[list[FileWrite], list[str]]:
    path = folder / ".gitignore"
    if not path.exists():
        return [FileWrite(path, "\n".join((*OUR_FILES, ".venv/", *CLI_FILES, "")))], []
    lines = [line.strip().strip("/") for line in path.read_text("utf-8", "replace").splitlines()]
    names = (*OUR_FILES, *(() if (folder / "supabase/.gitignore").exists() else CLI_FILES))
    missing = [name for name in names if not any(fnmatchcase(name.strip("/"), x) for x in lines)]
    return [], ["In .gitignore:\n\n    " + "\n    ".join(missing)] if missing else []


def _config(folder: Path, schema: str) -> tuple[list[FileWrite], list[str]]:
    path = folder / "supabase" / "config.toml"
    if not path.exists():
        exposed = EXPOSED if schema == "public" else [*EXPOSED, schema]
        name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()).strip("-") or "app"
        return [FileWrite(path, CONFIG.format(name=name, schemas=_quoted(exposed)))], []
    try:
        known = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InstallError(
            f"supabase/config.toml is not TOML: {error}", code="bad_config", fix="correct it"
        ) from error
    notes = _declared(folder, known.get("db", {}).get("migrations", {}).get("schema_paths", []))
    exposed = known.get("api", {}).get("schemas", EXPOSED)
    if schema not in exposed:
        line = f"schemas = [{_quoted([*exposed, schema])}]"
        notes = [
            f"In supabase/config.toml, under [api]:\n\n    {line}\n\n"
            "and on a hosted project the same under Project settings → Data API → Exposed schemas.",
            *notes,
        ]
    return [], notes


def _declared(folder: Path, listed: list[str]) -> list[str]:
    """What a project that declares its schema must list, or its next diff drops what is ours."""
    listed = listed or _schema_patterns(folder / "supabase")
    example = OURS.replace("*", "0")
    if not listed or any(fnmatchcase(example, f"./{each.removeprefix('./')}") for each in listed):
        return []
    line = f"schema_paths = [{_quoted([*listed, OURS])}]"
    return [
        f"In supabase/config.toml, under [db.migrations]:\n\n    {line}\n\n"
        "or the next `supabase db diff` drops what was installed, which your schema does not "
        "declare."
    ]


def _schema_patterns(home: Path) -> list[str]:
    """What the CLI reads where no path is listed, in its order; its patterns know no `**`."""
    files = sorted(path.relative_to(home).as_posix() for path in (home / "schemas").rglob("*.sql"))
    found = []
    for folder, group in groupby(files, posixpath.dirname):
        names = list(group)
        is_whole = names == [name for name in files if posixpath.dirname(name) == folder]
        found += [f"{folder}/*.sql"] if is_whole else names
    return [f"./{name}" for name in found]


def _answers_file(folder: Path, answers: Answers) -> str:
    # of a role, and of a bucket with the account's number: short, and of few characters
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).lstrip("-0123456789")[:20]
    return ANSWERS.format(
        name=name.rstrip("-") or "app",
        apps=_quoted([answers.package, *answers.without]),
        schema=answers.schemas.clients,
        tenancy=answers.tenants.kind,
        source=f'source = "{answers.source}"\n' if answers.source else "",
    )


def _new(folder: Path, name: str, text: str) -> list[FileWrite]:
    return [] if (folder / name).exists() else [FileWrite(folder / name, text)]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in dict.fromkeys(names))
