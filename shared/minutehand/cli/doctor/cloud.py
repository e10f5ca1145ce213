"""A deployed stage as AWS reports it: placeholders, secrets, schedule, functions, failures."""

from __future__ import annotations

import json
import re

from minutehand.cli.deploy import parameters as stage_parameters
from minutehand.cli.deploy import placeholders, shown
from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, warn
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name
from minutehand.deploy.stage_values import problems
from minutehand.project import Project

CHECKS = Checks()
LOOKS_SECRET = re.compile(r"sb_secret_[A-Za-z0-9]{8,}|eyJ[A-Za-z0-9_-]{20,}\.eyJ|-----BEGIN ")
SECRET_NAMES = {
    "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_WORKER_KEY", "WORKER_SECRET_TOKEN",
    "BACKGROUND_JOB_TOKEN", "LANGUAGE_MODEL_KEY", "SPEECH_KEY",
}  # fmt: skip


def deploy_command(target: Target) -> str:
    """How this stage is deployed."""
    return f"minutehand deploy {target.stage}"


@CHECKS.add("placeholders", deployed=True)
def filled(target: Target) -> Finding:
    """Nothing is left to fill."""
    project = Project.at(target.root)
    left = placeholders(str(target.stage), project)
    if left:
        return fail(f"not filled: {', '.join(left)}", f"edit {shown(project)}")
    return ok("every placeholder is filled in")


@CHECKS.add("stage-settings", deployed=True)
def stage_settings(target: Target) -> Finding:
    """No value that CloudFormation refuses, or that breaks every function."""
    project = Project.at(target.root)
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
        if found["Type"] != "SecureString":
            return fail(
                f"{name} is a plain {found['Type']}: anyone with the AWS console can read it", fix
            )
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


@CHECKS.add("alerts", deployed=True, held_by_aws=True)
def alerts(target: Target) -> Finding:
    """Someone has confirmed that alarms reach them."""
    sns = target.aws("sns")
    name = f"minutehand-{target.stage}-alerts"
    pages = sns.get_paginator("list_topics").paginate().build_full_result()
    topics = [topic["TopicArn"] for topic in pages.get("Topics", [])]
    found = [arn for arn in topics if arn.endswith(f":{name}")]
    if not found:
        return fail(f"{name} does not exist: alarms reach no one", deploy_command(target))
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=found[0])["Subscriptions"]
    waiting = [s["Endpoint"] for s in subscriptions if not s["SubscriptionArn"].startswith("arn:")]
    if len(waiting) == len(subscriptions):
        who = ", ".join(waiting) or "no one is subscribed"
        return fail(
            f"no alarm reaches anyone: not confirmed by {who}",
            "open the mail from AWS Notifications and confirm; alarmEmail in stages.yml names it",
        )
    return ok(f"{len(subscriptions) - len(waiting)} confirmed")
