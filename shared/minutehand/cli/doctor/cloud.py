"""A deployed stage as AWS reports it: placeholders, secrets, schedule."""

from __future__ import annotations

import json

from minutehand.cli.deploy import parameters as stage_parameters
from minutehand.cli.deploy import placeholders, shown
from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, warn
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name
from minutehand.deploy.stage_values import problems
from minutehand.project import Project

CHECKS = Checks()


def deploy_command(target: Target) -> str:
    """How this stage is deployed."""
    return f"minutehand deploy {target.stage}"


@CHECKS.add("stage-settings", deployed=True)
def stage_settings(target: Target) -> Finding:
    """Nothing is left to fill, and no value is one that breaks every function."""
    project = Project.at(target.root)
    left = placeholders(str(target.stage), project)
    if left:
        return fail(f"not filled: {', '.join(left)}", f"edit {shown(project)}")
    if found := problems(stage_parameters(str(target.stage), project)):
        return fail("; ".join(found), f"edit {shown(project)}")
    return ok("every value is one that AWS and the functions take")


@CHECKS.add("parameters", deployed=True, held_by_aws=True)
def parameters(target: Target) -> Finding:
    """Every function has its secrets."""
    fix = f"{deploy_command(target)} --secrets-only"
    ssm = target.aws("ssm")
    for function in NEEDED:
        name = parameter_name(str(target.stage), function)
        try:
            found = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        except ssm.exceptions.ParameterNotFound:
            return fail(f"{name} does not exist", fix)
        missing = missing_for(function, json.loads(found["Value"]))
        if missing:
            return fail(f"{name} lacks {', '.join(missing)}", fix)
    return ok("every function has its secrets")


@CHECKS.add("aws-schedule", deployed=True, held_by_aws=True)
def schedule(target: Target) -> Finding:
    """It exists, is on, has its own role and somewhere to put failures."""
    client = target.aws("scheduler")
    try:
        found = client.get_schedule(Name=f"minutehand-{target.stage}-tick")
    except client.exceptions.ResourceNotFoundException:
        return fail("the minute schedule does not exist: nothing ticks", deploy_command(target))
    if found["State"] != "ENABLED":
        return fail(
            "the schedule is disabled: nothing ticks",
            "enable it in EventBridge → Scheduler, and set tickState: ENABLED in stages.yml: "
            "a deploy alone does not undo manual changes",
        )
    if "DeadLetterConfig" not in found["Target"]:
        return warn("failed ticks are lost: no dead letter queue", deploy_command(target))
    return ok(found["ScheduleExpression"])
