"""`minutehand stages`: list the stages of a project, and add one, such as a preview branch's."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from minutehand.cli.deploy import PLACEHOLDER, check_stage_name, parameters, shown
from minutehand.deploy.service import read_stages
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output, headed

app = typer.Typer(help="List the stages, and add one.", rich_markup_mode=None)
REF = re.compile(r"[a-z]{20}")
KEY = re.compile(r"sb_publishable_[\w-]+|eyJ[\w-]+\.[\w-]+\.[\w-]+")


@app.command("list")
@verb
def list_stages(output: Output) -> None:
    """List the stages and the Supabase project of each."""
    rows = []
    for name in read_stages(Project.find()):
        if name != "default":
            url = str(parameters(name)["supabaseUrl"])
            rows.append({"stage": name, "supabase": "" if PLACEHOLDER.search(url) else url})
    output.table(rows, headed("stage supabase"), empty="no stages")


@app.command("add")
@verb
def add(
    output: Output,
    name: Annotated[str, typer.Argument(help="The stage's name, such as pr-42.")],
    *,
    project: Annotated[
        str, typer.Option(help="The ref of its Supabase project, or of a preview branch.")
    ],
    publishable_key: Annotated[str, typer.Option(help="That project's sb_publishable_… key.")],
) -> None:
    """Add a stage for a Supabase project or a preview branch; `minutehand deploy NAME` is next.

    Everything else of it is as the file's `default` says.
    """
    here = Project.find()
    _check(name, project, publishable_key, here)
    text = here.stages_file.read_text("utf-8").rstrip("\n")
    lines = (
        f"{name}:",
        f"  supabaseUrl: https://{project}.supabase.co",
        f"  supabasePublishableKey: {publishable_key}",
    )
    here.stages_file.write_text("\n".join((text, *lines, "")), "utf-8")
    made = {"stage": name, "supabaseUrl": f"https://{project}.supabase.co"}
    output.value(made, text=f"{name} is in {shown(here)}; next: minutehand deploy {name}")


def _check(name: str, project: str, key: str, here: Project) -> None:
    check_stage_name(name)
    if name == "default" or name in read_stages(here):
        raise CommandFailed(
            f"there is a stage {name} already", code="stage_exists", fix=f"edit {shown(here)}"
        )
    if not REF.fullmatch(project):
        raise CommandFailed(
            f"--project must be a ref of twenty small letters, not {project!r}",
            code="wrong_project",
            fix="`supabase branches list` shows a branch's; a project's is in its settings",
        )
    if not KEY.fullmatch(key):
        raise CommandFailed(
            "--publishable-key must be the project's sb_publishable_… key",
            code="bad_key",
            fix="copy it from the branch's Project settings → API keys",
        )
