"""`minutehand install`, `upgrade`, `uninstall`, which add the engine to a project or remove it."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from minutehand.install.errors import InstallError
from minutehand.install.project import InstallOptions, Plan, plan_install
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.install.sources import installed
from minutehand.install.tenancy import PERSONAL, Tenants, existing
from minutehand.install.upgrade import plan_upgrade
from minutehand.project import FILE, Project, Tenancy
from minutehand.resources import checkout
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output
from minutehand.version import VERSION

Folder = Annotated[
    Path, typer.Argument(help="The project's folder.", show_default="the current folder")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the files without writing them.")]
NEXT = """
Next:
1. if you use `supabase start`: restart it for the new config.toml, then supabase migration up
2. minutehand dev
3. in a second terminal: minutehand enqueue {package}.hello '{{"name": "Ada"}}' --watch
4. read the pages: minutehand docs"""


@verb
def install(
    output: Output,
    folder: Folder = Path(),
    *,
    schema: Annotated[
        str | None,
        typer.Option(help="Schema of the jobs that clients see; may be `public`. [minutehand]"),
    ] = None,
    tenancy: Annotated[
        Tenancy | None,
        typer.Option(
            help="A tenant is a row of our tables (workspaces), one of your organizations "
            "(existing) or a user (personal). [workspaces; existing with --organizations]"
        ),
    ] = None,
    organizations: Annotated[
        str, typer.Option(help="For existing: organizations.id or organizations(id,name).")
    ] = "",
    memberships: Annotated[
        str, typer.Option(help="For existing: memberships(organization_id,user_id,role).")
    ] = "",
    package: Annotated[
        str | None,
        typer.Option(
            help="The Python package of your processors, e.g. backend/jobs, acme.jobs. [jobs]"
        ),
    ] = None,
    without: Annotated[
        Literal["webhooks"] | None, typer.Option(help="An app of Minutehand to leave out.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Install the engine's migrations, a first processor and settings into a project."""
    folder, source = _project_folder(folder)
    if "/" in (package or ""):
        source, _, package = str(package).rpartition("/")
    tenancy = tenancy or ("existing" if organizations or memberships else None)
    left_out: tuple[str, ...] = (f"-minutehand.{without}",) if without else ()
    project = Project.at(folder)
    if project.model_fields_set != {"root"}:  # minutehand.toml has options
        _check_same(project, schema, tenancy, [*filter(None, [package]), *left_out])
        schema, tenancy, left_out = project.schema_, project.tenancy, project.without
        package = package or next((name for name in project.packages if name[-2:] != ".*"), None)
        source = source or (project.source if "source" in project.model_fields_set else "")
    if installed(folder):  # installed migrations define the tenants
        tenants = Tenants(tenancy or "workspaces")
    else:
        tenants = _tenants(tenancy, organizations, memberships)
    options = InstallOptions(
        Schemas(schema or "minutehand"), tenants, package or "jobs", source, left_out
    )
    plan = plan_install(folder, options)
    _write(output, folder, plan, dry_run=dry_run, notes=list(plan.hints))
    if output.as_json:
        return
    for hint in plan.hints:
        output.text(f"\n{hint}")
    if plan.files and not dry_run:
        output.text(NEXT.format(package=options.package.rpartition(".")[2]))


@verb
def upgrade(
    output: Output,
    folder: Folder = Path(),
    *,
    keep_edited: Annotated[
        bool, typer.Option("--keep-edited", help="Keep edited files and continue.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Add the migrations of this version that the project lacks."""
    folder, _ = _project_folder(folder)
    since, plan = plan_upgrade(folder, keep_edited=keep_edited)
    _write(output, folder, plan, dry_run=dry_run, since=since, version=VERSION)
    if plan.files and not dry_run and not output.as_json:
        output.text(
            "\nNext: minutehand deploy <stage>, which pushes the migrations first. Locally,"
            " restart `minutehand dev`. If you use `supabase start`, run: supabase migration up"
        )


@verb
def uninstall(output: Output, folder: Folder = Path()) -> None:
    """Print the SQL that removes the engine and its jobs, without running it."""
    sql = removal_sql(_project_folder(folder)[0])
    if not output.print_json({"sql": sql}):
        sys.stdout.write(sql)


def _project_folder(folder: Path) -> tuple[Path, str]:
    """Return the folder that contains the folder `supabase`, and the path of `folder` inside.

    The returned folder differs from `folder` in a monorepo whose backend has its own folder.
    """
    folder = folder.resolve()
    if folder == checkout():
        raise InstallError(
            "the folder must not be Minutehand's own checkout, which contains the source",
            code="own_checkout",
            fix="name another folder: minutehand install ../my-app",
        )
    if not folder.is_dir():
        raise InstallError(f"{folder} must be a folder", code="no_folder", fix=f"mkdir -p {folder}")
    for root in (folder, *folder.parents):
        if (root / "supabase" / "config.toml").is_file() and root != checkout():
            inside = folder.relative_to(root).as_posix()
            return root, "" if inside == "." else inside
        if (root / ".git").exists() or (root / FILE).exists():
            break
    return folder, ""


def _check_same(
    project: Project, schema: str | None, tenancy: Tenancy | None, apps: list[str]
) -> None:
    """Raise an error if an option of this command differs from the existing install's options."""
    if (
        schema not in (None, project.schema_)
        or tenancy not in (None, project.tenancy)
        or not {*apps} <= {*project.apps}
    ):
        raise InstallError(
            f"{FILE} has other options",
            code="installed_otherwise",
            fix="leave the options out, or edit the file if nothing is installed yet; to change an"
            " install: minutehand uninstall; to remove an app: minutehand docs webhooks",
        )


def _tenants(tenancy: Tenancy | None, organizations: str, memberships: str) -> Tenants:
    if tenancy == "personal":
        return PERSONAL
    if tenancy != "existing":
        return Tenants()
    if not (organizations and memberships):
        raise InstallError(
            "the tables of organizations and memberships must be named",
            code="tables_needed",
            fix="--organizations 'organizations(id,name)'"
            " --memberships 'memberships(organization_id,user_id,role)'",
        )
    return existing(organizations, memberships)


def _write(output: Output, folder: Path, plan: Plan, *, dry_run: bool, **more: Any) -> None:
    """Write the files of a plan unless `dry_run` is true, and print their names."""
    if not dry_run:
        plan.apply()
    names = [str(write.path.relative_to(folder)) for write in plan.files]
    done = "would write" if dry_run else "wrote"
    lines = [f"{done} {name}" for name in names] or ["nothing to write"]
    output.value(
        {"written": [] if dry_run else names, "planned": names, **more}, text="\n".join(lines)
    )
