"""Faults of a stage on AWS. A command makes each fault, and the doctor's printed fix repairs it."""

import base64
import hashlib
import io
import json
import random
import re
import shlex
import zipfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from minutehand.cli.doctor.results import CheckResult, Target
from minutehand.cli.doctor.runner import find_target, run_checks
from minutehand.cli.stage import Stage
from minutehand.deploy.apps import Needs
from minutehand.deploy.parameters import NEEDED, write_parameters
from tests.integration.cli.faults import SEED
from tests.support.aws_account import Account

Json = dict[str, Any]

# moto ignores some types of the template, whose resources the fixture creates by calls
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
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
UPLOADS: Json = {
    "Statement": [STATEMENT | {"Resource": {"Fn::Sub": "${Uploads.Arn}/*"}}],
    "Version": "2012-10-17",
}
KEY_POLICY = POLICY | {"Statement": [STATEMENT | {"Action": "kms:*", "Principal": "*"}]}
TRUSTED = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda"}}
TRUST = {"Version": "2012-10-17", "Statement": [TRUSTED]}


TICK: Json = {
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


#: The part of the stack's CloudFormation template that the doctor reads, as in
#: infra/aws/worker.yml.
RESOURCES: dict[str, Json] = {
    **{
        f"{name.title()}Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": f"shop-prod-us-east-1-{name}",
                "AssumeRolePolicyDocument": TRUST,
                "Policies": [{"PolicyName": name, "PolicyDocument": POLICY}],
            },
        }
        for name in (*NEEDED, "tick")
    },
    **{
        f"{name.title()}LambdaFunction": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "FunctionName": f"shop-prod-{name}",
                "Description": "Runs jobs.",
                "Runtime": "python3.13",
                "Handler": "main.main",
                "Role": {"Fn::GetAtt": [f"{name.title()}Role", "Arn"]},
                "Timeout": 120,
                "MemorySize": 512,
                "Code": {"S3Bucket": "shop", "S3Key": "app.zip"},
                "Environment": {"Variables": {"SUPABASE_URL": URL, "SECRETS_PARAMETER": "/a"}},
            },
        }
        for name in NEEDED
    },
    "Uploads": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "uploads"}},
    "UploadsPolicy": {
        "Type": "AWS::IAM::Policy",
        "Properties": {
            "PolicyName": "uploads",
            "Roles": [{"Ref": "WorkerRole"}],
            "PolicyDocument": UPLOADS,
        },
    },
    "StatusPermission": {
        "Type": "AWS::Lambda::Permission",
        "Properties": {
            "FunctionName": {"Fn::GetAtt": ["StatusLambdaFunction", "Arn"]},
            "Action": "lambda:InvokeFunction",
            "Principal": "apigateway.amazonaws.com",
            "SourceArn": {
                "Fn::Join": ["", ["arn:aws:execute-api:us-east-1:123456789012:", "api/*"]]
            },
        },
    },
    "WorkerRetries": {
        "Type": "AWS::Lambda::EventInvokeConfig",
        "Properties": {
            "FunctionName": {"Ref": "WorkerLambdaFunction"},
            "Qualifier": "$LATEST",
            "MaximumRetryAttempts": 0,
            "DestinationConfig": {
                "OnFailure": {
                    "Destination": "arn:aws:sqs:us-east-1:123456789012:shop-prod-failures"
                }
            },
        },
    },
    "Tick": {"Type": "AWS::Scheduler::Schedule", "Properties": TICK},
    "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": KEY_POLICY}},
    "Failures": {
        "Type": "AWS::SQS::Queue",
        "Properties": {"QueueName": "shop-prod-failures", "MessageRetentionPeriod": 1209600},
    },
    "LogGroup": {
        "Type": "AWS::Logs::LogGroup",
        "Properties": {"LogGroupName": "shop-prod", "RetentionInDays": 30},
    },
    "Alerts": {
        "Type": "AWS::SNS::Topic",
        "Properties": {
            "TopicName": "shop-prod-alerts",
            "Subscription": [{"Protocol": "email", "Endpoint": "ada@acme.test"}],
        },
    },
    "TicksMissedAlarm": {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": "shop-prod-TicksMissed",
            "MetricName": "Invocations",
            "Namespace": "AWS/Lambda",
            "Dimensions": [{"Name": "FunctionName", "Value": {"Ref": "WorkerLambdaFunction"}}],
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 5,
            "Threshold": 1,
            "ComparisonOperator": "LessThanThreshold",
            "TreatMissingData": "breaching",
            "AlarmActions": [{"Ref": "Alerts"}],
        },
    },
}
#: Function that the API calls.
CALLED = "arn:aws:lambda:us-east-1:123456789012:function:shop-prod-health"
#: Settings of the API, and its limits.
CORS: Json = {"CorsConfiguration": {"AllowOrigins": ["https://shop.test"], "MaxAge": 60}}
LIMITS: Json = {"ThrottlingBurstLimit": 50, "ThrottlingRateLimit": 100}
OUTPUTS = {
    "ServiceKeyArn": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}},
    "FailuresUrl": {"Value": {"Ref": "Failures"}},
}


#: Parameters of commands that AWS expects as text.
TEXTS = ("Value", "AttributeValue", "Policy", "PolicyDocument", "AssumeRolePolicyDocument")


class Deployed(Account):
    """An AWS account with the stage `prod` of the project `shop`."""

    def deploy(self) -> None:
        """Create what moto does not create from the template."""
        iam, functions = self.client("iam"), self.client("lambda")
        for name in (*NEEDED, "tick"):  # moto stores another text of the template's policies
            iam.put_role_policy(
                RoleName=f"shop-prod-us-east-1-{name}",
                PolicyName=name,
                PolicyDocument=json.dumps(POLICY),
            )
        uploads = json.dumps(UPLOADS).replace(
            '{"Fn::Sub": "${Uploads.Arn}/*"}', '"arn:aws:s3:::uploads/*"'
        )
        iam.put_role_policy(
            RoleName="shop-prod-us-east-1-worker", PolicyName="uploads", PolicyDocument=uploads
        )
        retries = RESOURCES["WorkerRetries"]["Properties"] | {"FunctionName": "shop-prod-worker"}
        functions.put_function_event_invoke_config(**retries)
        self.client("scheduler").create_schedule(**TICK)
        self.write_secrets()

    def write_secrets(self) -> None:
        """Write the secrets as a deploy does."""
        write_parameters(self.client("ssm"), "shop", "prod", SECRETS, key_id=None, needs=Needs())

    def upload_code(self) -> None:
        """Store the archive of the deployment with the hash that osls adds, and another archive."""
        files = self.client("s3")
        files.create_bucket(Bucket="shop")
        for name in ("app", "other"):
            code = io.BytesIO()
            with zipfile.ZipFile(code, "w") as archive:
                archive.writestr(f"{name}.py", "")
            digest = base64.b64encode(hashlib.sha256(code.getvalue()).digest()).decode()
            metadata = {"filesha256": digest}
            files.put_object(
                Bucket="shop", Key=f"{name}.zip", Body=code.getvalue(), Metadata=metadata
            )

    def write_key_policy(self) -> None:
        """Store the key's policy as text, because moto's CloudFormation stores an object."""
        [key] = self.client("kms").list_keys()["Keys"]
        self.client("kms").put_key_policy(
            KeyId=key["KeyId"], PolicyName="default", Policy=json.dumps(KEY_POLICY)
        )

    def run_command(self, line: str) -> None:
        """Run a command line of the AWS CLI, or a deploy of the secrets."""
        _, service, verb, *words = shlex.split(line, comments=True)
        if service == "deploy":
            self.write_secrets()
            return
        arguments: Json = {}
        for word in words:
            if word.startswith("--"):
                name = word.removeprefix("--").title().replace("-", "")
                arguments[name] = True
            else:
                arguments[name] = int(word) if word.isdigit() else word
                if name == "AlarmNames":
                    arguments[name] = [word]
                if word.startswith("{") and name not in TEXTS:
                    arguments[name] = json.loads(word)
            if name == "KeyId":  # moto cannot enable a key by its ARN
                arguments[name] = word.rpartition("/")[2]
        arguments.pop("Region", None)
        arguments |= arguments.pop("CliInputJson", {})
        if verb == "update-stage":  # moto cannot update a stage
            names = {name: arguments[name] for name in ("ApiId", "StageName")}
            self.client(service).delete_stage(**names)
            verb = "create-stage"
        if "NotificationEndpoint" in arguments:  # the AWS CLI renames this parameter
            arguments["Endpoint"] = arguments.pop("NotificationEndpoint")
        if service == "logs":
            arguments = {name[0].lower() + name[1:]: value for name, value in arguments.items()}
        getattr(self.client(service), verb.replace("-", "_"))(**arguments)


@pytest.fixture(scope="module")
def account() -> Iterator[Deployed]:
    """The AWS account after the first deploy."""
    with closing(Deployed()) as account:
        account.upload_code()
        api = account.client("apigatewayv2")
        route = {"ApiId": api.create_api(Name="shop", ProtocolType="HTTP", **CORS)["ApiId"]}
        stage = route | {"StageName": "default", "DefaultRouteSettings": LIMITS}
        api.create_stage(**stage)
        route |= {"RouteKey": "GET /health", "Target": "integrations/1"}
        api.create_route(**route)
        calls = {"ApiId": route["ApiId"], "IntegrationType": "AWS_PROXY", "IntegrationUri": CALLED}
        api.create_integration(**calls)
        resources = RESOURCES | {
            "HttpApi": {"Type": "AWS::ApiGatewayV2::Api", "Properties": CORS},
            "HttpApiStage": {"Type": "AWS::ApiGatewayV2::Stage", "Properties": stage},
            "Route": {"Type": "AWS::ApiGatewayV2::Route", "Properties": route},
            "Calls": {"Type": "AWS::ApiGatewayV2::Integration", "Properties": calls},
        }
        account.client("cloudformation").create_stack(
            StackName="shop-prod",
            TemplateBody=json.dumps({"Resources": resources, "Outputs": OUTPUTS}),
        )
        account.deploy()
        account.write_key_policy()
        topic = "arn:aws:sns:us-east-1:123456789012:shop-prod-alerts"
        worker = [{"Name": "FunctionName", "Value": "shop-prod-worker"}]
        alarm = RESOURCES["TicksMissedAlarm"]["Properties"] | {"AlarmActions": [topic]}
        account.client("cloudwatch").put_metric_alarm(**alarm | {"Dimensions": worker})
        yield account


@pytest.fixture(autouse=True)
def project(account: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the project's folder with access to the AWS account."""
    (tmp_path / "minutehand.toml").write_text('name = "shop"\napps = []\n')
    (tmp_path / "minutehand.stages.yml").write_text(STAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.url)


@cache
def stage() -> Stage:
    """Return the stage with its AWS clients, which take long to create."""
    return Stage("prod", "us-east-1")


def check_stage() -> CheckResult:
    """Run the doctor's check of AWS on the stage."""
    [finding] = run_checks(Target({}, stage()), ["aws"])
    return finding


#: Each line: a part of the doctor's finding, and the command that makes the fault.
_, *FAULTS = Path(__file__).with_name("faults_aws.txt").read_text().splitlines()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[pytest.mark.weekly(only=True)] if number % 4 else [])
        for number, fault in enumerate(FAULTS)
    ],
)
def test_a_fault_of_the_stage_goes_by_its_fix(account: Deployed, fault: str) -> None:
    """A fault of the stage is reported, and the printed commands repair it completely."""
    name = random.Random(f"{SEED} {fault}").choice(["status", "worker", "health"])
    outputs = stage().outputs()
    api = account.client("apigatewayv2")
    functions = account.client("lambda")
    content = {"S3Bucket": "shop", "S3Key": "other.zip"}
    published = functions.publish_layer_version(LayerName="own", Content=content)
    layer = published["LayerVersionArn"]
    [right] = json.loads(functions.get_policy(FunctionName="shop-prod-status")["Policy"])[
        "Statement"
    ]
    of_api = {"ApiId": api.get_apis()["Items"][0]["ApiId"]}
    [route], [calls] = (read(**of_api)["Items"] for read in (api.get_routes, api.get_integrations))
    target = TICK["Target"] | {"Arn": TICK["Target"]["Arn"].replace("worker", "jobs")}
    values = {
        "tick": TICK | {"State": "DISABLED"},
        "daily": TICK | {"ScheduleExpression": "rate(1 day)"},
        "late": TICK | {"FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 60}},
        "ended": TICK | {"EndDate": "2020-01-01T00:00:00"},
        "other": TICK | {"Target": target},
        "deny": POLICY | {"Statement": [STATEMENT, STATEMENT | {"Effect": "Deny"}]},
        "none": POLICY | {"Statement": [STATEMENT | {"Action": "s3:*"}]},
        "alarm": RESOURCES["TicksMissedAlarm"]["Properties"]
        | {"Threshold": 9, "AlarmActions": [], "Dimensions": []},
        "queue_policy": {"Policy": json.dumps(POLICY)},
        "trust": TRUST | {"Statement": [TRUSTED | {"Principal": {"Service": "ec2"}}]},
        "secrets": SECRETS | {"WORKER_SECRET_TOKEN": "x" * 32},
    }
    detail, command = fault.format(
        name=name,
        key=outputs["ServiceKeyArn"],
        queue=outputs["FailuresUrl"],
        layer=layer,
        right=right["Sid"],
        api=of_api["ApiId"],
        calls=calls["IntegrationId"],
        route=route["RouteId"],
        subscription=account.client("sns").list_subscriptions()["Subscriptions"][0][
            "SubscriptionArn"
        ],
        **{key: json.dumps(value) for key, value in values.items()},
    ).split(" | ")
    for line in command.split(" && "):
        account.run_command(line)

    finding = check_stage()

    assert detail in finding.detail, finding
    assert "undeploy" not in str(finding.fix)  # a new stack could not decrypt the secrets
    for line in re.split(" && |\n", str(finding.fix)):
        account.run_command(line)
    assert check_stage() == CheckResult("ok", check="aws")
    schedule = account.client("scheduler").get_schedule(Name="shop-prod-tick")
    assert {name: schedule[name] for name in TICK} == TICK


def test_a_deny_that_concerns_no_right_of_the_function_is_no_fault(account: Deployed) -> None:
    """An AWS policy may deny actions that the function does not need.

    The doctor then reports no fault, also if the own organization may invoke the function.
    """
    right = {"Action": "lambda:InvokeFunction", "Principal": "*", "PrincipalOrgID": "o-a1b2c3d4e5"}
    account.client("lambda").add_permission(
        FunctionName="shop-prod-worker", StatementId="own", **right
    )
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


@pytest.mark.parametrize(
    "names",
    [
        "GetSchedule DescribeLogGroups GetFunctionConcurrency DescribeKey GetQueueAttributes"
        " GetTemplate ListRolePolicies DescribeStackResources GetRole",
        "DescribeStackResources",
    ],
)
def test_a_right_that_the_caller_lacks_fails_no_check(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor names AWS calls that its user may not make, and reports no fault for them."""
    send, denied = vars(BaseClient)["_make_api_call"], names.split()

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
    """The doctor reports a stage that does not exist in the region. It skips all other checks."""
    target = find_target("prod", "eu-west-1", None)
    finding, *others = run_checks(target)

    assert [each.check for each in run_checks(target, ["proof"])] == ["aws", "proof"]
    assert (finding.check, finding.verdict) == ("aws", "fail")
    assert "in eu-west-1" in finding.detail
    assert re.search("--region.+ deploy prod$", str(finding.fix))
    assert {other.detail for other in others} == {"see aws"}
