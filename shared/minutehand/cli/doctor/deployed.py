"""What a deployed stage runs with, from where it lies: stages.yml, the functions, SSM, the stack.

They are read to be checked and shown to no one; what is missing is for the checks to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from minutehand.cli.account import caller, told
from minutehand.cli.deploy import SERVICE, parameters, placeholders
from minutehand.deploy.parameters import NEEDED, parameter_name
from minutehand.terminal.connection import CommandFailed

Client = Callable[[str], Any]


def filled_in(stage: str) -> dict[str, str]:
    """What stages.yml says about a stage, as the functions call it; no placeholders."""
    values, left = parameters(stage), placeholders(stage)
    names = {"SUPABASE_URL": "supabaseUrl", "SUPABASE_PUBLISHABLE_KEY": "supabasePublishableKey"}
    known = {name: str(values[key]) for name, key in names.items() if key not in left}
    return {**known, "STAGE": stage}


def stage_values(stage: str, region: str, client: Client) -> dict[str, str]:
    """What the stage's functions hold, and where they are reached."""
    with told(region):
        caller(client("sts"))
    values: dict[str, str] = {}
    for name in NEEDED:
        values |= _variables(client("lambda"), f"{SERVICE}-{stage}-{name}", region)
        values |= _secrets(client("ssm"), parameter_name(stage, name), region)
    if url := _console_url(client("cloudformation"), f"{SERVICE}-{stage}", region):
        values["API_URL"] = url
    return values


def _variables(lambda_: Any, function: str, region: str) -> dict[str, str]:
    found = _find(region, lambda_.get_function_configuration, FunctionName=function)
    variables: dict[str, str] = found.get("Environment", {}).get("Variables", {})
    return variables


def _secrets(ssm: Any, name: str, region: str) -> dict[str, str]:
    found = _find(region, ssm.get_parameter, Name=name, WithDecryption=True)
    secrets: dict[str, str] = json.loads(found["Parameter"]["Value"]) if found else {}
    return secrets


def _console_url(cloudformation: Any, stack: str, region: str) -> str | None:
    found = _find(region, cloudformation.describe_stacks, StackName=stack)
    outputs = found["Stacks"][0].get("Outputs", []) if found else []
    found_by = {out["OutputKey"]: out["OutputValue"] for out in outputs}
    return found_by.get("ConsoleUrl") or found_by.get("HttpApiUrl")


def _find(region: str, ask: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """The answer; empty when it does not exist."""
    try:
        with told(region):
            return ask(**arguments)
    except CommandFailed as failed:
        if failed.code in {"aws_unreachable", "no_credentials"}:
            raise
        return {}
