"""The check of a deployed stage: its resources on AWS are compared with the stack's template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
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
    with translate_aws_errors(stage.region):
        resources = Resources(stage)
        result = next(resources.faults(), ok())
    if resources.denied and result.verdict == "ok":
        denied = ", ".join(sorted(resources.denied))
        return ok(f"some parts were not checked, because AWS denies {denied}")
    return result


class Resources:
    """The resources of a stage, and the calls that AWS denied."""

    def __init__(self, stage: Stage) -> None:
        self.denied: set[str] = set()
        self._stage, self._stack = stage, stage.stack
        self._region = f"--region {stage.region}"
        self._outputs = stage.outputs()
        template = self._find("cloudformation", "get_template", StackName=self._stack) or {}
        self._template = template.get("TemplateBody", {}).get("Resources", {})

    def faults(self) -> Iterator[CheckResult]:
        """Yield the faults, causes first."""
        yield from self._key_faults()
        for name in (*NEEDED, "tick"):
            yield from self._role_faults(name)
        secrets: dict[str, str] = {}
        for name in NEEDED:
            yield from self._function_faults(name, secrets)
        yield from self._schedule_faults()
        yield from self._log_faults()
        yield from self._queue_faults()

    def _find(self, service: str, operation: str, **arguments: Any) -> Any:
        """Return the response of AWS, or None if the resource does not exist.

        If AWS denies the call, add its name to `denied` and return an empty response.
        """
        from botocore.exceptions import ClientError

        try:
            return getattr(self._stage.client(service), operation)(**arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if any(word in code for word in ("NotFound", "NoSuch", "NonExistent", "DoesNotExist")):
                return None
            if "AccessDenied" in code:
                self.denied.add(error.operation_name)
                return {}
            raise

    def _properties(self, resource: str) -> dict[str, Any]:
        return dict(self._template.get(resource, {}).get("Properties", {}))

    def _deleted(self, what: str, resource: str) -> CheckResult:
        # A deployment does not create a resource again that was deleted outside of the stack. An
        # `undeploy` before the deployment would lose the secrets, because the next stack has
        # another key.
        command = f"aws cloudformation get-template --stack-name {self._stack} {self._region}"
        by_hand = f"create it by hand from {resource}, then the resources that refer to it"
        return fail(f"{what} was deleted", f"{command}  # {by_hand}")

    def _role(self, name: str) -> str:
        return f"{self._stack}-{self._stage.region}-{name}"

    def _role_arn(self, function: dict[str, Any], name: str) -> str:
        """Return the ARN of a role, in the account of a function."""
        return f"{function['Role'].partition(':role/')[0]}:role/{self._role(name)}"

    def _key_faults(self) -> Iterator[CheckResult]:
        if (key := self._outputs.get("ServiceKeyArn")) is None:
            return
        described = self._find("kms", "describe_key", KeyId=key)
        if described is None:
            yield fail("the key of the secrets was deleted, so no function can read them")
        state = (described or {}).get("KeyMetadata", {}).get("KeyState")
        enable = f"aws kms enable-key --key-id {key} {self._region}"
        if state == "PendingDeletion":
            enable = f"aws kms cancel-key-deletion --key-id {key} {self._region} && {enable}"
        if state in ("Disabled", "PendingDeletion"):
            yield fail(f"the key of the secrets is {state}, so no function can read them", enable)

    def _role_faults(self, name: str) -> Iterator[CheckResult]:
        role, resource = self._role(name), f"{name.title()}Role"
        policy = self._find("iam", "get_role_policy", RoleName=role, PolicyName=name)
        if policy is None:
            yield self._deleted(f"the role {role} or its policy {name}", resource)
            return
        deployed = set().union(*map(_actions, self._properties(resource).get("Policies", ())))
        missing = deployed - _actions(policy) if policy else set()
        if missing:
            yield self._deleted(f"the right {', '.join(sorted(missing))} of {role}", resource)
        for command, other in self._policies(role, name, policy):
            denied = _actions(other, "Deny")
            if any(fnmatch(a, b) or fnmatch(b, a) for a in deployed for b in denied):
                yield fail(f"a policy of {role} denies rights of the function", command)

    def _policies(
        self, role: str, deployed: str, deployed_policy: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each policy of a role with the command that removes what it denies."""
        of_role = {"RoleName": role}
        names = self._find("iam", "list_role_policies", **of_role) or {}
        for name in names.get("PolicyNames", ()):
            options, policy = f"--role-name {role} --policy-name {name}", deployed_policy
            if name != deployed:
                policy = self._find("iam", "get_role_policy", **of_role, PolicyName=name) or {}
            if allowed := [each for each in _statements(policy) if each["Effect"] == "Allow"]:
                rest = shlex.quote(json.dumps(policy["PolicyDocument"] | {"Statement": allowed}))
                yield f"aws iam put-role-policy {options} --policy-document {rest}", policy
            else:
                yield f"aws iam delete-role-policy {options}", policy
        attached = self._find("iam", "list_attached_role_policies", **of_role) or {}
        for arn in (each["PolicyArn"] for each in attached.get("AttachedPolicies", ())):
            if policy := self._find("iam", "get_policy", PolicyArn=arn):
                version = policy["Policy"]["DefaultVersionId"]
                policy = self._find("iam", "get_policy_version", PolicyArn=arn, VersionId=version)
            if policy:
                detach = f"aws iam detach-role-policy --role-name {role} --policy-arn {arn}"
                yield detach, {"PolicyDocument": policy["PolicyVersion"]["Document"]}

    def _function_faults(self, name: str, secrets: dict[str, str]) -> Iterator[CheckResult]:
        """Yield faults of a function and its secrets, and add them to those of other functions."""
        stage, function = self._stage, f"{self._stack}-{name}"
        resource, of_function = f"{name.title()}LambdaFunction", {"FunctionName": function}
        found = self._find("lambda", "get_function_configuration", **of_function)
        if found is None:
            yield self._deleted(f"the function {function}", resource)
            return
        values, deploy = stage.read_secrets(name), f"minutehand deploy {stage.name} --secrets-only"
        parameter = parameter_name(stage.service, stage.name, name)
        if missing := missing_for(name, values):
            yield fail(f"{parameter} lacks {', '.join(missing)}", deploy)
        if other := [key for key in values if secrets.setdefault(key, values[key]) != values[key]]:
            yield fail(f"{parameter} and other functions have different {', '.join(other)}", deploy)
        concurrency = self._find("lambda", "get_function_concurrency", **of_function) or {}
        if concurrency.get("ReservedConcurrentExecutions") == 0:
            command = f"aws lambda delete-function-concurrency --function-name {function}"
            problem = f"the reserved concurrency of {function} is 0, so it never runs"
            yield fail(problem, f"{command} {self._region}")
        if not found:
            return
        deployed = self._properties(resource) | {"Role": self._role_arn(found, name)}
        for option, field in OPTIONS.items():
            if found[field] != (value := deployed.get(field, found[field])):
                command = f"aws lambda update-function-configuration --function-name {function}"
                yield fail(
                    f"{field} of {function} is {found[field]}, and was deployed as {value}",
                    f"{command} --{option} {value} {self._region}",
                )
        url = found.get("Environment", {}).get("Variables", {}).get("SUPABASE_URL")
        if url not in stage.supabase_urls:
            yield fail(
                f"{function} uses {url}, not {stage.supabase_urls[0]} as the stages file says",
                f"minutehand deploy {stage.name}",
            )

    def _schedule_faults(self) -> Iterator[CheckResult]:
        tick = f"{self._stack}-tick"
        schedule = self._find("scheduler", "get_schedule", Name=tick)
        if schedule is None:
            yield self._deleted(f"the schedule {tick}", "Tick")
        if not schedule:
            return
        target = dict(schedule["Target"])
        function = f"{self._stack}-worker"
        if worker := self._find("lambda", "get_function_configuration", FunctionName=function):
            target["Arn"] = worker["FunctionArn"]
            target["RoleArn"] = self._role_arn(worker, "tick")
        template = self._properties("Tick").get("Target", {})
        target |= {name: template[name] for name in ("Input", "RetryPolicy") if name in template}
        deployed = {
            "State": str(self._stage.values.get("tickState", "ENABLED")),
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
                f"aws scheduler update-schedule --cli-input-json {request} {self._region}",
            )

    def _log_faults(self) -> Iterator[CheckResult]:
        name = self._stack
        found = self._find("logs", "describe_log_groups", logGroupNamePrefix=name)
        if found and name not in [group["logGroupName"] for group in found["logGroups"]]:
            create = f"aws logs create-log-group --log-group-name {name} {self._region}"
            yield fail(f"the log group {name} was deleted, so no log is stored", create)

    def _queue_faults(self) -> Iterator[CheckResult]:
        if (url := self._outputs.get("FailuresUrl")) is None:
            return
        number, name = "ApproximateNumberOfMessages", f"{self._stack}-failures"
        found = self._find("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=[number])
        if found is None:
            create = f"aws sqs create-queue --queue-name {name} {self._region}"
            yield fail(f"the queue {name} was deleted", create)
        elif found and int(count := found["Attributes"][number]):
            yield warn(
                f"{count} invocations of the worker failed, but no job is lost",
                f"aws sqs purge-queue --queue-url {url} {self._region}"
                "  # `aws sqs receive-message` shows their reasons before",
            )


def _statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy's document, in which one statement needs no list."""
    statements = policy.get("PolicyDocument", {}).get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def _actions(policy: dict[str, Any], effect: str = "Allow") -> set[str]:
    """Return the actions that a policy allows, or that it denies without a condition."""
    actions = [
        each.get("Action", [])  # a statement may have NotAction instead
        for each in _statements(policy)
        if each["Effect"] == effect and not (effect == "Deny" and "Condition" in each)
    ]
    return {name for each in actions for name in ([each] if isinstance(each, str) else each)}
