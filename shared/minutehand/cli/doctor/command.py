"""`minutehand doctor`.

The imports of the checks take half a second, so the checks are imported when the command runs.
"""

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
        typer.Option(help="Check this deployed stage, and test it with a temporary job."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run only this check; repeatable.")
    ] = None,
    workspace: Workspace = None,
    region: Region = "",
    env_file: EnvFile = None,
) -> None:
    """Find misconfiguration and print its fix, without changing anything."""
    from minutehand.cli.doctor.runner import find_target, run_checks

    results = []
    for result in run_checks(find_target(stage, region, env_file, workspace), only or ()):
        results.append(asdict(result))
        if not output.as_json:
            mark = f"{result.verdict:<4}", STYLES[result.verdict]
            output.text(Text.assemble(mark, f"  {result.check:<12}  {result.detail}"))
            if result.fix:
                output.text(f"      → {result.fix}")
    failed = sum(result["verdict"] == "fail" for result in results)
    output.value(results, text=f"{len(results)} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)
