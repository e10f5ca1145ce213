"""`minutehand install`, `upgrade`, `uninstall`: the engine into a project, and out of it again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from minutehand.config import ConfigurationError
from minutehand.install.project import Answers, Plan, Write, plan_install
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import InstallError, installed
from minutehand.install.tenancy import (
    MANAGERS,
    Personal,
    TenancyError,
    Tenants,
    detect,
    existing,
)
from minutehand.install.upgrade import plan_upgrade, tenants_of
from minutehand.project import Project, Tenancy
from minutehand.resources import checkout
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import Json, speaking
from minutehand.terminal.output import Output
from minutehand.version import VERSION

Folder = Annotated[Path, typer.Argument(help="The project's folder.", show_default="this one")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what it would write, and write nothing.")
]
SCHEMA, ENGINE_SCHEMA, PACKAGE = "minutehand", "minutehand_engine", "jobs"
TENANCIES: tuple[Tenancy, ...] = ("workspaces", "existing", "personal")


def install(
    folder: Folder = Path(),
    *,
    schema: Annotated[
        str | None, typer.Option(help="Where clients see jobs; `public` is possible. [minutehand]")
    ] = None,
    engine_schema: Annotated[
        str | None, typer.Option(help="The engine's own schema, never exposed. [minutehand_engine]")
    ] = None,
    tenancy: Annotated[
        str | None,
        typer.Option(
            help="workspaces: our tables; existing: your organizations; personal: each user."
        ),
    ] = None,
    organizations: Annotated[
        str | None, typer.Option(help="For existing: organizations.id or organizations(id,name).")
    ] = None,
    memberships: Annotated[
        str | None, typer.Option(help="For existing: memberships(organization_id,user_id,role).")
    ] = None,
    managers: Annotated[
        str, typer.Option(help="For existing: the roles that may also pause work.")
    ] = ",".join(MANAGERS),
    package: Annotated[
        str | None, typer.Option(help="The Python package of your processors. [jobs]")
    ] = None,
    app: Annotated[
        list[str] | None, typer.Option(help="A reference app to install as well, e.g. chat.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept the defaults without asking.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put the engine's migrations, a first processor and settings into a project."""
    with _installing(as_json) as output:
        folder = _project_folder(folder)
        asks = not yes and not dry_run and sys.stdin.isatty()
        known = Project.at(folder)
        tenants: Tenants | None = None
        if known != Project(root=folder):  # it was answered before
            schema, engine_schema = schema or known.schema_, engine_schema or known.engine_schema
            package = package or next((name for name in known.apps if "." not in name), None)
            if tenancy in (None, known.tenancy):
                tenants = tenants_of(known, installed(folder))
        answers = Answers(
            Schemas(
                schema or _ask(asks, "Schema of the jobs", SCHEMA), engine_schema or ENGINE_SCHEMA
            ),
            tenants
            or _tenants(
                folder,
                tenancy or _ask(asks, "Tenancy", "/".join(TENANCIES)),
                (organizations, memberships, managers),
                asks,
            ),
            package or PACKAGE,
            tuple(app or ()),
        )
        plan = plan_install(folder, answers, now=datetime.now(UTC))
        if not dry_run:
            plan.apply()
        _report(output, folder, plan.writes, dry_run=dry_run, more={"notes": list(plan.notes)})
        if as_json:
            return
        for note in plan.notes:
            output.text(f"\n{note}")
        if plan.writes and not dry_run:
            output.text(_next_steps(answers, plan.notes))


def upgrade(
    folder: Folder = Path(),
    *,
    keep_edited: Annotated[
        bool, typer.Option("--keep-edited", help="Keep edited files and continue.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add the migrations that this version has and the project lacks."""
    with _installing(as_json) as output:
        folder = _project_folder(folder)
        found = plan_upgrade(folder, now=datetime.now(UTC), keep_edited=keep_edited)
        if not dry_run:
            Plan(found.writes).apply()
        more = {"since": found.since, "version": VERSION, "changes": found.changes}
        _report(output, folder, found.writes, dry_run=dry_run, more=more)
        if as_json:
            return
        if found.changes:
            output.text(f"\n{found.changes}")
        if found.writes and not dry_run:
            output.text(
                "\nNext: minutehand deploy <stage>, which pushes them first. Here, start"
                " `minutehand dev` again, or `supabase migration up` beside `supabase start`."
            )


def uninstall(folder: Folder = Path(), *, as_json: Json = False) -> None:
    """Print the SQL that removes the engine and its jobs; it runs nothing."""
    with _installing(as_json) as output:
        sql = removal_sql(_project_folder(folder))
        if as_json:
            output.line({"sql": sql})
        else:
            sys.stdout.write(sql)


@contextmanager
def _installing(as_json: bool) -> Iterator[Output]:
    with speaking(as_json) as output:
        try:
            yield output
        except InstallError as error:
            raise CommandFailed(str(error), code=error.code, fix=error.fix) from error
        except TenancyError as error:
            raise CommandFailed(str(error), code="bad_tenancy") from error
        except ConfigurationError as error:
            raise CommandFailed(str(error), code="bad_settings") from error


def _project_folder(folder: Path) -> Path:
    folder = folder.resolve()
    if folder == checkout():
        raise InstallError(
            "this is Minutehand's own checkout, whose migrations are the source",
            code="own_checkout",
            fix="name another folder: minutehand install ../my-app",
        )
    if not folder.is_dir():
        raise InstallError(f"{folder} is not a folder", code="no_folder", fix=f"mkdir -p {folder}")
    return folder


def _ask(asks: bool, question: str, default: str) -> str:
    first = default.split("/")[0]
    if not asks:
        return first
    choices = f" ({default})" if "/" in default else ""
    return str(typer.prompt(f"{question}{choices}", default=first)).strip()


def _tenants(
    folder: Path, tenancy: str, given: tuple[str | None, str | None, str], asks: bool
) -> Tenants:
    organizations, memberships, managers = given
    if tenancy == "workspaces":
        return Tenants()
    if tenancy == "personal":
        return Personal()
    if tenancy != "existing":
        raise InstallError(
            f"--tenancy must be one of {', '.join(TENANCIES)}, not {tenancy!r}",
            code="bad_tenancy",
            fix="--tenancy workspaces",
        )
    if not (organizations and memberships):
        found = detect(folder)
        if not found or (len(found) > 1 and not asks):
            seen = "; ".join(" and ".join(pair) for pair in found) or "none"
            raise InstallError(
                "which tables hold organizations and memberships? found in your "
                f"migrations: {seen}",
                code="tables_needed",
                fix="--organizations 'organizations(id,name)'"
                " --memberships 'memberships(organization_id,user_id,role)'",
            )
        organizations = organizations or _ask(asks, "Organizations", found[0][0])
        memberships = memberships or _ask(asks, "Memberships", found[0][1])
    roles = [name.strip() for name in managers.split(",") if name.strip()]
    return existing(organizations, memberships, managers=roles)


def _report(
    output: Output, folder: Path, writes: tuple[Write, ...], *, dry_run: bool, more: dict[str, Any]
) -> None:
    names = [str(write.path.relative_to(folder)) for write in writes]
    done = "would write" if dry_run else "wrote"
    lines = [f"{done} {name}" for name in names] or ["nothing to write: everything is in place"]
    output.value(
        {"written": [] if dry_run else names, "planned": names, **more}, text="\n".join(lines)
    )


def _next_steps(answers: Answers, notes: tuple[str, ...]) -> str:
    first = "supabase migration up, beside `supabase start` only" + (
        ", after the lines above" if notes else ""
    )
    clients, engine = answers.schemas.clients, answers.schemas.engine
    made = f"insert into {clients}.workspaces (name) values ('Mine'); "
    return (
        "\nNext:\n"
        f"1. {first}\n"
        "2. minutehand dev\n"
        f"3. in SQL: {made if answers.tenants.kind == 'workspaces' else ''}"
        f"select {clients}.enqueue_job(id, '{answers.package}.hello', '{{\"name\": \"Ada\"}}')"
        f" from {engine}.tenants limit 1;"
    )
