"""`minutehand doctor`; what it looks with takes half a second to import, and its help does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from minutehand.terminal.options import EnvFile, Region, Workspace, verb
from minutehand.terminal.output import Output

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


@verb
def doctor(
    output: Output,
    *,
    stage: Annotated[
        str | None,
        typer.Option(help="Also check this deployed stage, and prove it with a throw-away job."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this check; repeatable.")
    ] = None,
    workspace: Workspace = None,
    region: Region = "",
    env_file: EnvFile = None,
) -> None:
    """Find what is misconfigured and name its fix; nothing stays changed."""
    from minutehand.cli.doctor.runner import examine, target_of

    findings = []
    for finding in examine(target_of(stage, region, env_file, workspace), only or ()):
        findings.append(asdict(finding))
        if not output.as_json:
            mark = f"{finding.verdict:<4}", STYLES[finding.verdict]
            output.text(Text.assemble(mark, f"  {finding.check:<12}  {finding.detail}"))
            if finding.fix:
                output.text(f"      → {finding.fix}")
    failed = sum(finding["verdict"] == "fail" for finding in findings)
    output.value(findings, text=f"{len(findings)} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)
