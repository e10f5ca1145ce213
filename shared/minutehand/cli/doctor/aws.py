"""The check of a deployed stage, which compares its resources on AWS with the stack's template."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

from minutehand.cli.doctor.results import CheckResult, Target, check, fail, ok, warn
from minutehand.cli.stage import Stage, translate_aws_errors
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name
from minutehand.terminal.connection import CommandFailed

#: Fields of a schedule that AWS returns, but rejects in a request that changes the schedule.
RESPONSE_FIELDS = {"Arn", "CreationDate", "LastModificationDate", "ResponseMetadata"}
#: Fields of a Lambda function that the check compares with the template.
FUNCTION_FIELDS = ("Timeout", "MemorySize", "Handler", "Runtime", "Role")
#: Network settings of a Lambda function that is in no VPC.
NO_VPC: dict[str, list[str]] = {"SubnetIds": [], "SecurityGroupIds": []}
#: Start and end of a schedule, which no deployment sets.
LIMITS = ("StartDate", "EndDate")
#: Words in the names of AWS errors that mean that a resource does not exist.
MISSING = ("NotFound", "NoSuch", "NonExistent", "DoesNotExist")


@check("aws", staged=True)
def aws(target: Target) -> CheckResult:
    """Check the stage's values, secrets, functions, key and failed invocations."""
    stage = target.stage
    if stage is None:
        return fail("only a deployed stage has AWS settings", "name a stage: --stage prod")
    stage.check()
    with translate_aws_errors(stage.region):
        return Resources(stage).check()


class Resources:
    """The resources of a stage.

    A check raises `CommandFailed` for the first fault that it finds.
    """

    def __init__(self, stage: Stage) -> None:
        self._denied: set[str] = set()
        self._stage, self._stack = stage, stage.stack
        self._outputs = stage.outputs()
        template = self._find("cloudformation", "get_template", StackName=self._stack) or {}
        self._template = template.get("TemplateBody", {}).get("Resources", {})

    def check(self) -> CheckResult:
        """Check all resources. Resources that others depend on come first."""
        self._check_key()
        for name in (*NEEDED, "tick"):
            self._check_role(name)
        secrets: dict[str, str] = {}
        for name in NEEDED:
            self._check_function(name, secrets)
        self._check_schedule()
        groups = self._find("logs", "describe_log_groups", logGroupNamePrefix=self._stack)
        if groups and self._stack not in [each["logGroupName"] for each in groups["logGroups"]]:
            create = self._command("logs create-log-group", log_group_name=self._stack)
            raise CommandFailed(f"the log group {self._stack} was deleted", fix=create)
        self._check_alarms()
        if count := self._count_failures():
            purge = self._command("sqs purge-queue", queue_url=self._outputs["FailuresUrl"])
            return warn(
                f"{count} invocations of the worker failed, but no job is lost",
                f"{purge}  # `aws sqs receive-message` shows their reasons before",
            )
        denied = ", ".join(sorted(self._denied))
        return ok(f"some parts were not checked, because AWS denies {denied}" if denied else "")

    def _find(self, service: str, operation: str, **arguments: Any) -> Any:
        """Return AWS's response, or None if the resource does not exist.

        If AWS denies the call, store the name of the call and return an empty response.
        """
        from botocore.exceptions import ClientError

        try:
            return getattr(self._stage.client(service), operation)(**arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if any(word in code for word in MISSING):
                return None
            if "AccessDenied" in code:
                self._denied.add(error.operation_name)
                return {}
            raise

    def _need(self, name: str, resource: str, call: str, **arguments: Any) -> Any:
        """Return AWS's response. Raise an error if the resource does not exist."""
        if (found := self._find(*call.split(), **arguments)) is None:
            raise self._deleted(name, resource)
        return found

    def _deleted(self, name: str, resource: str) -> CommandFailed:
        # A deployment does not create a deleted resource of the stack again. An `undeploy` before
        # the deployment would make the secrets unreadable, because a new stack has a new key.
        command = self._command("cloudformation get-template", stack_name=self._stack)
        by_hand = f"create it by hand from {resource}, then the resources that refer to it"
        return CommandFailed(f"the {name} was deleted", fix=f"{command}  # {by_hand}")

    def _command(self, command: str, **options: str) -> str:
        """Return a command line of the AWS CLI in the stage's region."""
        words = [
            f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in options.items()
        ]
        return " ".join(["aws", command, *words, "--region", self._stage.region])

    def _compare(
        self, name: str, found: Any, deployed: dict[str, Any], command: str, request: dict[str, Any]
    ) -> None:
        """Raise an error for fields that differ from the template of the deployment.

        The fix adds the deployed values of the differing fields to `request`.
        """
        if wrong := [field for field in deployed if found.get(field) != deployed[field]]:
            request |= {name: deployed[name] for name in wrong if deployed[name] is not None}
            differences = (
                f"{field} of {name} is {found.get(field)}, and was deployed as {deployed[field]}"
                for field in wrong
            )
            fix = self._command(command, cli_input_json=json.dumps(request, default=str))
            raise CommandFailed("; ".join(differences), fix=fix)

    def _properties(self, resource: str) -> dict[str, Any]:
        return dict(self._template.get(resource, {}).get("Properties", {}))

    def _role(self, name: str) -> str:
        return f"{self._stack}-{self._stage.region}-{name}"

    def _role_arn(self, function: dict[str, Any], name: str) -> str:
        """Return the ARN of the role `name` in the account of a function."""
        return f"{function['Role'].partition(':role/')[0]}:role/{self._role(name)}"

    def _check_key(self) -> None:
        if (key := self._outputs.get("ServiceKeyArn")) is None:
            return
        name = "key of the secrets"
        described = self._find("kms", "describe_key", KeyId=key)
        if described is None:
            raise CommandFailed(f"the {name} was deleted, so no function can read them")
        state = described.get("KeyMetadata", {}).get("KeyState")
        steps = {
            "Disabled": ["enable-key"],
            "PendingDeletion": ["cancel-key-deletion", "enable-key"],
        }
        if state in steps:
            fix = " && ".join(self._command(f"kms {step}", key_id=key) for step in steps[state])
            raise CommandFailed(f"the {name} is {state}, so no function can read them", fix=fix)

    def _check_role(self, name: str) -> None:
        resource, names = f"{name.title()}Role", {"RoleName": self._role(name), "PolicyName": name}
        subject = f"role {names['RoleName']} or its policy {name}"
        policy = self._need(subject, resource, "iam get_role_policy", **names)
        deployed = set().union(*map(_actions, self._properties(resource).get("Policies", ())))
        if missing := deployed - _actions(policy) if policy else None:
            raise self._deleted(
                f"right {', '.join(sorted(missing))} of {self._role(name)}", resource
            )
        for command, other in self._policies(self._role(name)):
            denied = _actions(other, "Deny")
            if any(fnmatch(a, b) or fnmatch(b, a) for a in deployed for b in denied):
                problem = f"a policy of {self._role(name)} denies rights of the function"
                raise CommandFailed(problem, fix=command)

    def _policies(self, role: str) -> Iterator[tuple[str, Any]]:
        """Yield each policy of a role, with the command that removes the policy's denials."""
        of_role = {"RoleName": role}
        names = self._find("iam", "list_role_policies", **of_role) or {}
        for name in names.get("PolicyNames", ()):
            document = self._find("iam", "get_role_policy", **of_role, PolicyName=name)
            policy = (document or {}).get("PolicyDocument", {})
            options = {"role_name": role, "policy_name": name}
            if allowed := [each for each in _statements(policy) if each["Effect"] == "Allow"]:
                rest = json.dumps(policy | {"Statement": allowed})
                yield self._command("iam put-role-policy", **options, policy_document=rest), policy
            else:
                yield self._command("iam delete-role-policy", **options), policy
        attached = self._find("iam", "list_attached_role_policies", **of_role) or {}
        for arn in (each["PolicyArn"] for each in attached.get("AttachedPolicies", ())):
            if policy := self._find("iam", "get_policy", PolicyArn=arn):
                version = policy["Policy"]["DefaultVersionId"]
                policy = self._find("iam", "get_policy_version", PolicyArn=arn, VersionId=version)
            if policy:
                detach = self._command("iam detach-role-policy", role_name=role, policy_arn=arn)
                yield detach, policy["PolicyVersion"]["Document"]

    def _check_function(self, name: str, secrets: dict[str, str]) -> None:
        """Check a function and its secrets. `secrets` contains the secrets of functions so far."""
        stage, function = self._stage, f"{self._stack}-{name}"
        resource, of_function = f"{name.title()}LambdaFunction", {"FunctionName": function}
        found = self._need(
            f"function {function}", resource, "lambda get_function_configuration", **of_function
        )
        values, deploy = stage.read_secrets(name), f"minutehand deploy {stage.name} --secrets-only"
        parameter = parameter_name(stage.service, stage.name, name)
        if missing := missing_for(name, values):
            raise CommandFailed(f"{parameter} lacks {', '.join(missing)}", fix=deploy)
        if other := [key for key in values if secrets.setdefault(key, values[key]) != values[key]]:
            problem = f"{parameter} and other functions have different {', '.join(other)}"
            raise CommandFailed(problem, fix=deploy)
        template = self._properties(resource)
        concurrency = self._find("lambda", "get_function_concurrency", **of_function) or {}
        reserved = concurrency.get("ReservedConcurrentExecutions")
        if reserved not in (None, template.get("ReservedConcurrentExecutions")):
            ends = "it never runs" if reserved == 0 else "more runs are rejected"
            raise CommandFailed(
                f"the reserved concurrency of {function} is {reserved}, so {ends}",
                fix=self._command("lambda delete-function-concurrency", function_name=function),
            )
        if not found:
            return
        template["Role"] = self._role_arn(found, name)
        deployed = {field: template[field] for field in FUNCTION_FIELDS if field in template}
        if "VpcConfig" not in template:
            # without a way to the internet, the function cannot reach Supabase
            deployed["VpcConfig"] = NO_VPC
            vpc = found.get("VpcConfig", {})
            found["VpcConfig"] = {field: vpc.get(field, []) for field in NO_VPC}
        command = "lambda update-function-configuration"
        self._compare(function, found, deployed, command, of_function)
        variables = found.get("Environment", {}).get("Variables", {})
        url = variables.get("SUPABASE_URL")
        if url not in stage.supabase_urls:
            raise CommandFailed(
                f"{function} uses {url}, not {stage.supabase_urls[0]} as the stages file says",
                fix=f"minutehand deploy {stage.name}",
            )
        values = template.get("Environment", {}).get("Variables", {})
        constants = {key: value for key, value in values.items() if isinstance(value, str)}
        if wrong := [key for key in constants if variables.get(key) != constants[key]]:
            request = {**of_function, "Environment": {"Variables": variables | constants}}
            raise CommandFailed(
                f"{function} was deployed with another {', '.join(wrong)}",
                fix=self._command(command, cli_input_json=json.dumps(request)),
            )

    def _check_schedule(self) -> None:
        tick, function = f"{self._stack}-tick", f"{self._stack}-worker"
        schedule = self._need(f"schedule {tick}", "Tick", "scheduler get_schedule", Name=tick)
        worker = self._find("lambda", "get_function_configuration", FunctionName=function)
        if not schedule:
            return
        template = self._properties("Tick").get("Target", {})
        target = {name: template[name] for name in ("Input", "RetryPolicy") if name in template}
        arns = worker and {"Arn": worker["FunctionArn"], "RoleArn": self._role_arn(worker, "tick")}
        if worker and "DeadLetterConfig" in template:
            start = worker["FunctionArn"].replace(":lambda:", ":sqs:").partition(":function:")[0]
            target["DeadLetterConfig"] = {"Arn": f"{start}:{self._stack}-failures"}
        deployed = {
            **dict.fromkeys(LIMITS),
            "State": str(self._stage.values.get("tickState", "ENABLED")),
            "ScheduleExpression": "rate(1 minute)",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "Target": schedule["Target"] | (arns or {}) | target,
        }
        # send all fields, because an update resets each field that it omits
        request = {name: schedule[name] for name in schedule.keys() - {*RESPONSE_FIELDS, *LIMITS}}
        self._compare(tick, schedule, deployed, "scheduler update-schedule", request)

    def _check_alarms(self) -> None:
        """Check that alarms send their mails."""
        found = self._find("cloudwatch", "describe_alarms", AlarmNamePrefix=f"{self._stack}-")
        for name in (
            each["AlarmName"]
            for each in (found or {}).get("MetricAlarms", ())
            if not each["ActionsEnabled"]
        ):
            enable = self._command("cloudwatch enable-alarm-actions", alarm_names=name)
            raise CommandFailed(f"the alarm {name} sends no mail", fix=enable)

    def _count_failures(self) -> int:
        if (url := self._outputs.get("FailuresUrl")) is None:
            return 0
        number, name = "ApproximateNumberOfMessages", f"{self._stack}-failures"
        names = {"QueueUrl": url, "AttributeNames": [number]}
        if (found := self._find("sqs", "get_queue_attributes", **names)) is None:
            create = self._command("sqs create-queue", queue_name=name)
            raise CommandFailed(f"the queue {name} was deleted", fix=create)
        return int(found.get("Attributes", {}).get(number, 0))


def _statements(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy's document. A single statement may be without a list."""
    statements = policy.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def _actions(policy: dict[str, Any], effect: str = "Allow") -> set[str]:
    """Return the actions that a policy allows, or the actions that it denies without conditions."""
    actions = [
        each.get("Action", [])  # some statements have NotAction instead
        for each in _statements(policy.get("PolicyDocument", policy))
        if each["Effect"] == effect and not (effect == "Deny" and "Condition" in each)
    ]
    return {name for each in actions for name in ([each] if isinstance(each, str) else each)}
