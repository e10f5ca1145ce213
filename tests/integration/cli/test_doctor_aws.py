"""Faults of a deployed stage, each planted and repaired by a command line."""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import find_target, run_checks
from minutehand.cli.stage import Stage
from minutehand.deploy.parameters import NEEDED, write_parameters
from tests.integration.cli.faults import SEED
from tests.support.aws_account import Account

STAGES = """\
prod:
  supabaseUrl: https://abcdefghijklmnopqrst.supabase.co
  supabasePublishableKey: sb_publishable_1
  alarmEmail: ada@acme.test
"""
URL = "https://abcdefghijklmnopqrst.supabase.co"
SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 32,
    "BACKGROUND_JOB_TOKEN": "b" * 32,
    "SUPABASE_WORKER_KEY": "k",
}
STATEMENT = {"Effect": "Allow", "Action": "logs:*", "Resource": "*"}
POLICY = {"Version": "2012-10-17", "Statement": [STATEMENT]}


TICK: dict[str, Any] = {
    "Name": "shop-prod-tick",
    "Description": "Runs due jobs.",
    "ScheduleExpression": "rate(1 minute)",
    "FlexibleTimeWindow": {"Mode": "OFF"},
    "State": "ENABLED",
    "Target": {
        "Arn": "arn:aws:lambda:us-east-1:123456789012:function:shop-prod-worker",
        "RoleArn": "arn:aws:iam::123456789012:role/shop-prod-us-east-1-tick",
        "RetryPolicy": {"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60},
    },
}


def function_of(name: str) -> dict[str, Any]:
    """Return the deployed configuration of a function."""
    return {
        "FunctionName": f"shop-prod-{name}",
        "Runtime": "python3.13",
        "Handler": "main.main",
        "Role": f"arn:aws:iam::123456789012:role/shop-prod-us-east-1-{name}",
        "Timeout": 120,
        "MemorySize": 512,
    }


def role_of(name: str) -> dict[str, Any]:
    """Return the deployed configuration of a role, without its policy."""
    return {"RoleName": f"shop-prod-us-east-1-{name}", "AssumeRolePolicyDocument": "{}"}


#: The part of a stack's template that the doctor reads, as in infra/aws/worker.yml.
TEMPLATE = {
    "Resources": {
        **{
            f"{name.title()}Role": {
                "Type": "AWS::IAM::Role",
                "Properties": role_of(name)
                | {"Policies": [{"PolicyName": name, "PolicyDocument": POLICY}]},
            }
            for name in NEEDED
        },
        **{
            f"{name.title()}LambdaFunction": {
                "Type": "AWS::Lambda::Function",
                "Properties": function_of(name) | {"Code": {"ZipFile": "main = None"}},
            }
            for name in NEEDED
        },
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {}}},
        "Failures": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "shop-prod-failures"}},
    },
    "Outputs": {
        "ServiceKeyArn": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}},
        "FailuresUrl": {"Value": {"Ref": "Failures"}},
    },
}


class Deployed(Account):
    """An account with the stage `prod` of the project `shop`."""

    def deploy(self) -> None:
        """Create what is missing, with the deployment's configuration."""
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("main.py", "")
        iam, functions = self.client("iam"), self.client("lambda")
        for name in (*NEEDED, "tick"):
            role = role_of(name)
            with suppress(ClientError):
                iam.create_role(**role)
            document = json.dumps(POLICY)
            iam.put_role_policy(RoleName=role["RoleName"], PolicyName=name, PolicyDocument=document)
        for name in NEEDED:
            with suppress(ClientError):
                functions.delete_function(FunctionName=f"shop-prod-{name}")
            functions.create_function(
                **function_of(name),
                Code={"ZipFile": code.getvalue()},
                Environment={"Variables": {"SUPABASE_URL": URL}},
            )
        write_parameters(self.client("ssm"), "shop", "prod", SECRETS)
        with suppress(ClientError):
            self.client("scheduler").create_schedule(**TICK)

    def run_command(self, line: str) -> None:
        """Run a command line of the AWS CLI, or a deployment.

        A person who reads the template deploys what is missing by hand.
        """
        _, service, verb, *words = shlex.split(line, comments=True)
        if service == "deploy" or verb == "get-template":
            self.deploy()
            return
        arguments: dict[str, Any] = {}
        for word in words:
            if word.startswith("--"):
                name = word.removeprefix("--").title().replace("-", "")
                arguments[name] = True
            elif re.fullmatch(r"\w+=\w+", word):
                arguments[name] = dict([word.split("=")])
            else:
                arguments[name] = int(word) if word.isdigit() else word
                if word.startswith("{") and name not in ("Value", "PolicyDocument"):
                    arguments[name] = json.loads(word)
            if name == "KeyId":  # moto cannot enable a key by its ARN
                arguments[name] = word.rpartition("/")[2]
        arguments.pop("Region", None)
        arguments |= arguments.pop("CliInputJson", {})
        if service == "logs":
            arguments = {name[0].lower() + name[1:]: value for name, value in arguments.items()}
        getattr(self.client(service), verb.replace("-", "_"))(**arguments)


@pytest.fixture(scope="module")
def account() -> Iterator[Deployed]:
    """The account after the first deploy."""
    with closing(Deployed()) as account:
        account.client("cloudformation").create_stack(
            StackName="shop-prod", TemplateBody=json.dumps(TEMPLATE)
        )
        account.deploy()
        account.run_command("aws logs create-log-group --log-group-name shop-prod")
        yield account


@pytest.fixture(autouse=True)
def project(account: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the project's folder, signed in to the account."""
    (tmp_path / "minutehand.toml").write_text('name = "shop"\napps = []\n')
    (tmp_path / "minutehand.stages.yml").write_text(STAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@cache
def stage() -> Stage:
    """Return the stage with its clients, which take long to create."""
    return Stage("prod", "us-east-1")


def check_stage() -> CheckResult:
    """Run the check of AWS on the stage."""
    [finding] = run_checks(Target({}, stage()), ["aws"])
    return finding


#: A part of the detail | the command that plants the fault in one of the functions
FAULTS = """\
concurrency of shop-prod-{name} is 0 | aws lambda put-function-concurrency --function-name \
shop-prod-{name} --reserved-concurrent-executions 0
shop-prod-{name} was deleted | aws lambda delete-function --function-name shop-prod-{name}
shop-prod-{name} uses https://zzzz | aws lambda update-function-configuration --function-name \
shop-prod-{name} --environment '{{"Variables": {{"SUPABASE_URL": "https://zzzz.supabase.co"}}}}'
Timeout of shop-prod-{name} is 3 | aws lambda update-function-configuration --function-name \
shop-prod-{name} --timeout 3
Handler of shop-prod-{name} is other.main | aws lambda update-function-configuration \
--function-name shop-prod-{name} --handler other.main
Role of shop-prod-{name} is | aws lambda update-function-configuration --function-name \
shop-prod-{name} --role arn:aws:iam::123456789012:role/service-role/made
shop-prod-us-east-1-{name} denies | aws iam put-role-policy --role-name \
shop-prod-us-east-1-{name} --policy-name {name} --policy-document '{deny}'
MemorySize of shop-prod-{name} is 128 | aws lambda update-function-configuration --function-name \
shop-prod-{name} --memory-size 128
shop-prod-us-east-1-{name} denies | aws iam put-role-policy --role-name \
shop-prod-us-east-1-{name} --policy-name no --policy-document '{deny}'
the right logs:* of shop-prod | aws iam put-role-policy --role-name \
shop-prod-us-east-1-{name} --policy-name {name} --policy-document '{none}'
us-east-1-{name} or its policy | aws iam delete-role-policy --role-name shop-prod-us-east-1-{name} \
--policy-name {name}
/shop/prod/{name} lacks | aws ssm put-parameter --name /shop/prod/{name} --value {{ --type \
SecureString --overwrite
/shop/prod/{name} lacks | aws ssm delete-parameter --name /shop/prod/{name}
/shop/prod/{name} lacks | aws ssm put-parameter --name /shop/prod/{name} --value {{}} --type \
SecureString --overwrite
State of shop-prod-tick is DISABLED | aws scheduler update-schedule --cli-input-json '{tick}'
Target of shop-prod-tick is | aws scheduler update-schedule --cli-input-json '{other}'
ScheduleExpression of shop-prod-tick is | aws scheduler update-schedule --cli-input-json '{daily}'
have different WORKER_SECRET_TOKEN | aws ssm put-parameter --name /shop/prod/{name} --value \
'{secrets}' --type SecureString --overwrite
shop-prod-tick was deleted | aws scheduler delete-schedule --name shop-prod-tick
is Disabled | aws kms disable-key --key-id {key}
is PendingDeletion | aws kms schedule-key-deletion --key-id {key}
1 invocations of the worker failed | aws sqs send-message --queue-url {queue} --message-body x
queue shop-prod-failures was deleted | aws sqs delete-queue --queue-url {queue}
log group shop-prod was deleted | aws logs delete-log-group --log-group-name shop-prod"""


@pytest.mark.parametrize("fault", FAULTS.splitlines())
def test_a_fault_of_the_stage_goes_by_its_fix(account: Deployed, fault: str) -> None:
    """A part that was switched off in an emergency, for example, must not be forgotten."""
    name = random.Random(f"{SEED} {fault}").choice(["status", "worker", "health"])
    outputs = stage().outputs()
    key, queue = outputs["ServiceKeyArn"], outputs["FailuresUrl"]
    tick = json.dumps(TICK | {"State": "DISABLED"})
    daily = json.dumps(TICK | {"ScheduleExpression": "rate(1 day)"})
    target = TICK["Target"] | {"Arn": TICK["Target"]["Arn"].replace("worker", "jobs")}
    other = json.dumps(TICK | {"Target": target})
    deny = json.dumps(POLICY | {"Statement": [STATEMENT, STATEMENT | {"Effect": "Deny"}]})
    secrets = json.dumps(SECRETS | {"WORKER_SECRET_TOKEN": "x" * 32})
    values = {"name": name, "key": key, "queue": queue, "tick": tick, "daily": daily}
    values |= {
        "other": other,
        "deny": deny,
        "none": json.dumps(POLICY | {"Statement": [STATEMENT | {"Action": "s3:*"}]}),
    }
    detail, command = fault.format(**values, secrets=secrets).split(" | ")
    account.run_command(command)

    finding = check_stage()

    assert detail in finding.detail, finding
    assert "undeploy" not in str(finding.fix)  # the next stack's key could not read the secrets
    for line in str(finding.fix).partition("  #")[0].split(" && "):
        account.run_command(line)
    assert check_stage() == CheckResult("ok", check="aws")
    schedule = account.client("scheduler").get_schedule(Name="shop-prod-tick")
    assert {name: schedule[name] for name in TICK} == TICK


def test_a_deny_that_concerns_no_right_of_the_function_is_no_fault(account: Deployed) -> None:
    """A company's policy may deny other actions, other regions or old sessions."""
    statements = [
        {"Effect": "Deny", "Action": "organizations:*", "Resource": "*"},
        {"Effect": "Deny", "NotAction": "logs:*", "Resource": "*"},
        STATEMENT | {"Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
    ]
    account.client("iam").put_role_policy(
        RoleName="shop-prod-us-east-1-worker",
        PolicyName="guardrail",
        PolicyDocument=json.dumps(POLICY | {"Statement": statements}),
    )

    assert check_stage() == CheckResult("ok", check="aws")


def test_a_right_that_the_caller_lacks_fails_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A role of an earlier release may lack rights to read roles, schedules and log groups."""
    send = vars(BaseClient)["_make_api_call"]
    denied = {"GetRolePolicy", "GetSchedule", "DescribeLogGroups", "GetFunctionConcurrency"}
    denied |= {"DescribeKey", "GetQueueAttributes", "GetTemplate", "ListRolePolicies"}

    def deny(client: BaseClient, operation: str, arguments: Any) -> Any:
        if operation in denied:
            error: Any = {"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}
            raise ClientError(error, operation)
        return send(client, operation, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", deny)
    finding = check_stage()

    assert finding.verdict == "ok"
    assert finding.detail.endswith(f"AWS denies {', '.join(sorted(denied))}")


def test_a_stage_of_another_region_is_named_and_nothing_else_is_checked() -> None:
    """AWS only reports that a stack does not exist."""
    target = find_target("prod", "eu-west-1", None)
    finding, *others = run_checks(target)

    assert [each.check for each in run_checks(target, ["proof"])] == ["aws", "proof"]
    assert (finding.check, finding.verdict) == ("aws", "fail")
    assert "in eu-west-1" in finding.detail
    assert "--region" in str(finding.fix)
    assert {other.detail for other in others} == {"see aws"}
