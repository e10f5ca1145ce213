"""The check of a deployed stage: its resources on AWS are compared with the stack's template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from minutehand.cli.doctor.results import CheckResult, Target, check, fail, ok, warn
from minutehand.cli.stage import Stage, translate_aws_errors
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name

#: Fields of a schedule that AWS returns, but rejects in a request to change the schedule.
RESPONSE_FIELDS = {"Arn", "CreationDate", "LastModificationDate", "ResponseMetadata"}

#: Fields of a function that are compared, by the option of the command that changes them.
OPTIONS = {"timeout": "Timeout", "memory-size": "MemorySize", "handler": "Handler", "role": "Role"}


@check("aws", staged=True)
def aws(target: Target) -> CheckResult:
    """Check the stage's values, secrets, functions, key and failed invocations."""
    stage = target.stage
    if stage is None:
        return fail("only a deployed stage has AWS settings", "name a stage: --stage prod")
    stage.check()
    denied: set[str] = set()
    with translate_aws_errors(stage.region):
        result = next(_stage_faults(stage, denied), ok())
    if denied and result.verdict == "ok":
        return ok(f"some parts were not checked, because AWS denies {', '.join(sorted(denied))}")
    return result


def _stage_faults(stage: Stage, denied: set[str]) -> Iterator[CheckResult]:
    """Yield faults of a stage's resources, causes first, and add rejected calls to `denied`."""
    outputs, region, stack = stage.outputs(), f"--region {stage.region}", stage.stack
    find = partial(_find, denied)
    template = find(stage.client("cloudformation").get_template, StackName=stack) or {}
    resources = template.get("TemplateBody", {}).get("Resources", {})

    def properties(resource: str) -> dict[str, Any]:
        return dict(resources.get(resource, {}).get("Properties", {}))

    def deleted(what: str, resource: str) -> CheckResult:
        # A deployment does not create a resource again that was deleted outside of the stack. An
        # `undeploy` before the deployment would lose the secrets, because the next stack has
        # another key.
        command = f"aws cloudformation get-template --stack-name {stack} {region}"
        by_hand = f"create it by hand from {resource}, then the resources that refer to it"
        return fail(f"{what} was deleted", f"{command}  # {by_hand}")

    if key := outputs.get("ServiceKeyArn"):
        described = find(stage.client("kms").describe_key, KeyId=key)
        if described is None:
            yield fail("the key of the secrets was deleted, so no function can read them")
        state = (described or {}).get("KeyMetadata", {}).get("KeyState")
        enable = f"aws kms enable-key --key-id {key} {region}"
        if state == "PendingDeletion":
            enable = f"aws kms cancel-key-deletion --key-id {key} {region} && {enable}"
        if state in ("Disabled", "PendingDeletion"):
            yield fail(f"the key of the secrets is {state}, so no function can read them", enable)
    for name in (*NEEDED, "tick"):
        role, resource = f"{stack}-{stage.region}-{name}", f"{name.title()}Role"
        policy = find(stage.client("iam").get_role_policy, RoleName=role, PolicyName=name)
        if policy is None:
            yield deleted(f"the role {role} or its policy {name}", resource)
            continue
        [*wanted] = properties(resource).get("Policies", ())
        missing = set().union(*map(_actions, wanted)) - _actions(policy) if policy else set()
        if missing:
            yield deleted(f"the right {', '.join(sorted(missing))} of {role}", resource)
        yield from _denials(stage, find, role)
    worker: dict[str, Any] = {}
    yield from _function_faults(stage, find, deleted, properties, worker)
    tick = f"{stack}-tick"
    schedule = find(stage.client("scheduler").get_schedule, Name=tick)
    if schedule is None:
        yield deleted(f"the schedule {tick}", "Tick")
    elif schedule:
        target = dict(schedule["Target"])
        if worker:
            target["Arn"] = worker["FunctionArn"]
            target["RoleArn"] = _role_arn(stage, worker, "tick")
        wanted = properties("Tick").get("Target", {})
        target |= {name: wanted[name] for name in ("Input", "RetryPolicy") if name in wanted}
        deployed = {
            "State": str(stage.values.get("tickState", "ENABLED")),
            "ScheduleExpression": "rate(1 minute)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": target,
        }
        if wrong := [name for name in deployed if schedule[name] != deployed[name]]:
            # an update resets all fields that it omits
            fields = {name: schedule[name] for name in schedule.keys() - RESPONSE_FIELDS}
            request = shlex.quote(json.dumps(fields | deployed, default=str))
            found = ", ".join(f"{name} {schedule[name]}" for name in wrong)
            yield fail(
                f"the schedule {tick} has {found}, which is not as deployed",
                f"aws scheduler update-schedule --cli-input-json {request} {region}",
            )
    groups = find(stage.client("logs").describe_log_groups, logGroupNamePrefix=stack)
    if groups and stack not in [group["logGroupName"] for group in groups["logGroups"]]:
        create = f"aws logs create-log-group --log-group-name {stack} {region}"
        yield fail(f"the log group {stack} was deleted, so no log is stored", create)
    if queue := outputs.get("FailuresUrl"):
        number = "ApproximateNumberOfMessages"
        found = find(
            stage.client("sqs").get_queue_attributes, QueueUrl=queue, AttributeNames=[number]
        )
        if found is None:
            create = f"aws sqs create-queue --queue-name {stack}-failures {region}"
            yield fail(f"the queue {stack}-failures was deleted", create)
        elif found and int(count := found["Attributes"][number]):
            yield warn(
                f"{count} invocations of the worker failed, but no job is lost",
                f"aws sqs purge-queue --queue-url {queue} {region}"
                "  # `aws sqs receive-message` shows their reasons before",
            )


def _statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy's document, in which one statement needs no list."""
    statements = policy["PolicyDocument"]["Statement"]
    return statements if isinstance(statements, list) else [statements]


def _actions(policy: dict[str, Any]) -> set[str]:
    """Return the actions that a policy allows."""
    actions = [s["Action"] for s in _statements(policy) if s["Effect"] == "Allow"]
    return {name for each in actions for name in ([each] if isinstance(each, str) else each)}


def _denials(stage: Stage, find: Callable[..., Any], role: str) -> Iterator[CheckResult]:
    """Yield the policies of a role that deny something, because the deployed ones only allow."""
    iam = stage.client("iam")
    policies: dict[str, Any] = {}
    for name in (find(iam.list_role_policies, RoleName=role) or {}).get("PolicyNames", ()):
        policy = find(iam.get_role_policy, RoleName=role, PolicyName=name)
        command = f"aws iam delete-role-policy --role-name {role} --policy-name {name}"
        if policy and role.endswith(f"-{name}"):  # the deployed policy, of which the rest stays
            allowed = [each for each in _statements(policy) if each["Effect"] == "Allow"]
            document = json.dumps(policy["PolicyDocument"] | {"Statement": allowed})
            command = command.replace("delete", "put")
            command += f" --policy-document {shlex.quote(document)}"
        policies[command] = policy
    attached = find(iam.list_attached_role_policies, RoleName=role) or {}
    for arn in (each["PolicyArn"] for each in attached.get("AttachedPolicies", ())):
        version = find(iam.get_policy, PolicyArn=arn)
        if version:
            version = find(
                iam.get_policy_version,
                PolicyArn=arn,
                VersionId=version["Policy"]["DefaultVersionId"],
            )
        if version:
            detach = f"aws iam detach-role-policy --role-name {role} --policy-arn {arn}"
            policies[detach] = {"PolicyDocument": version["PolicyVersion"]["Document"]}
    for command, policy in policies.items():
        if policy and any(each["Effect"] == "Deny" for each in _statements(policy)):
            yield fail(f"a policy of {role} denies rights of the function", command)


def _function_faults(
    stage: Stage,
    find: Callable[..., Any],
    deleted: Callable[[str, str], CheckResult],
    properties: Callable[[str], dict[str, Any]],
    worker: dict[str, Any],
) -> Iterator[CheckResult]:
    """Yield faults of a stage's functions, of their secrets and of their concurrency.

    The configuration of the worker is stored in `worker`.
    """
    functions, region = stage.client("lambda"), f"--region {stage.region}"
    shared: dict[str, str] = {}
    for name in NEEDED:
        function, resource = f"{stage.stack}-{name}", f"{name.title()}LambdaFunction"
        found = find(functions.get_function_configuration, FunctionName=function)
        if found is None:
            yield deleted(f"the function {function}", resource)
            continue
        if name == "worker":
            worker |= found
        secrets, deploy = stage.read_secrets(name), f"minutehand deploy {stage.name} --secrets-only"
        parameter = parameter_name(stage.service, stage.name, name)
        if missing := missing_for(name, secrets):
            yield fail(f"{parameter} lacks {', '.join(missing)}", deploy)
        if other := [
            key for key, value in secrets.items() if shared.setdefault(key, value) != value
        ]:
            yield fail(f"{parameter} and other functions have different {', '.join(other)}", deploy)
        concurrency = find(functions.get_function_concurrency, FunctionName=function) or {}
        if concurrency.get("ReservedConcurrentExecutions") == 0:
            yield fail(
                f"the reserved concurrency of {function} is 0, so it never runs",
                f"aws lambda delete-function-concurrency --function-name {function} {region}",
            )
        update = f"aws lambda update-function-configuration --function-name {function}"
        wanted = {**properties(resource), "Role": found and _role_arn(stage, found, name)}
        for option, field in OPTIONS.items():
            if found and field in wanted and found[field] != wanted[field]:
                yield fail(
                    f"{field} of {function} is {found[field]}, and was deployed as {wanted[field]}",
                    f"{update} --{option} {wanted[field]} {region}",
                )
        url = found.get("Environment", {}).get("Variables", {}).get("SUPABASE_URL")
        if found and url not in stage.supabase_urls:
            yield fail(
                f"{function} uses {url}, not {stage.supabase_urls[0]} as the stages file says",
                f"minutehand deploy {stage.name}",
            )


def _role_arn(stage: Stage, function: dict[str, Any], name: str) -> str:
    """Return the ARN of one of the stage's roles, in the account of a function."""
    path = function["Role"].rpartition("/")[0]
    return f"{path}/{stage.stack}-{stage.region}-{name}"


def _find(denied: set[str], call: Callable[..., Any], **arguments: Any) -> Any:
    """Return the response of AWS, or None if the resource does not exist.

    If AWS denies the call, add its name to `denied` and return an empty response.
    """
    from botocore.exceptions import ClientError

    try:
        return call(**arguments)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if any(word in code for word in ("NotFound", "NoSuch", "NonExistent", "DoesNotExist")):
            return None
        if "AccessDenied" in code:
            denied.add(error.operation_name)
            return {}
        raise
