"""What CloudFormation would be told: an auditor's and an on-call engineer's questions, asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from minutehand.config import Settings
from minutehand.deploy.build import PARTS
from minutehand.deploy.package import TEMPLATE
from minutehand.web.application import create_app
from minutehand.web.context import AllowedOrigins
from minutehand.web.services import Services
from tests.artefact.stack import BY_THEIR_OWN_API, FUNCTIONS, NOT_IN_MOTO, Stack, flat
from tests.support.paths import ROOT

ALARMS = {
    *(
        f"{name}{what}"
        for name in ("Jobs", "Status", "Worker", "Health")
        for what in ("Errors", "Throttles", "NearTimeout")
    ),
    "OldestDueJob",
    "WorkerKeyExpires",
    "TicksMissed",
    "ScheduleStopped",
    "ScheduleDropped",
    "DeadLetters",
    "RecursionDropped",
    "WorkersTooFew",
    "WorkerFailuresLost",
    "TickFailuresWaiting",
    "TickFailuresLost",
    "Api5xx",
}
#: Alarms whose silence is the fault itself.
SILENCE_IS_A_FAULT = {"TicksMissed", "ScheduleStopped"}

TRACES = {("xray:PutTraceSegments", "*", ""), ("xray:PutTelemetryRecords", "*", "")}
VENDOR = '{"StringEquals": "{\\"kms:EncryptionContext:purpose\\": \\"vendor-key\\"}"}'
UPLOADS = "${UploadsBucket.Arn}/*"
WORKSPACES = "${UploadsBucket.Arn}/workspaces/*"


def base_rights(stage: str, name: str) -> set[tuple[str, str, str]]:
    """What every function may do: its own log, traces, its own parameter."""
    log = f"arn:aws:logs:here:log-group:/aws/lambda/minutehand-{stage}-{name}:*"
    parameter = f"arn:aws:ssm:here:parameter/minutehand/{stage}/{name}"
    through_ssm = json.dumps(
        {
            "StringEquals": json.dumps(
                {
                    "kms:EncryptionContext:PARAMETER_ARN": parameter,
                    "kms:ViaService": "ssm.${AWS::Region}.amazonaws.com",
                },
                sort_keys=True,
            )
        }
    )
    return TRACES | {
        ("logs:CreateLogStream", log, ""),
        ("logs:PutLogEvents", log, ""),
        ("ssm:GetParameter", parameter, ""),
        ("kms:Decrypt", "<ServiceKey.Arn>", through_ssm),
    }


def more_rights(stage: str) -> dict[str, set[tuple[str, str, str]]]:
    """What one function may do beyond that."""
    invoke = (
        "lambda:InvokeFunction",
        f"arn:aws:lambda:here:function:minutehand-{stage}-worker",
        "",
    )
    seal = {
        ("kms:GenerateDataKey", "<ServiceKey.Arn>", VENDOR),
        ("kms:Decrypt", "<ServiceKey.Arn>", VENDOR),
    }
    return {
        "jobs": {invoke, ("s3:ListBucket", "<UploadsBucket.Arn>", "")}
        | seal
        | {
            (f"s3:{action}", UPLOADS, "")
            for action in (
                "PutObject",
                "GetObject",
                "AbortMultipartUpload",
                "ListMultipartUploadParts",
            )
        }
        | {("s3:DeleteObject", WORKSPACES, "")},
        "status": set(),
        "worker": {invoke, ("sqs:SendMessage", "<WorkerFailures.Arn>", "")}
        | seal
        | {("s3:ListBucket", "<UploadsBucket.Arn>", ""), ("s3:GetObject", UPLOADS, "")}
        | {(f"s3:{action}Object", WORKSPACES, "") for action in ("Put", "Delete")},
        "health": set(),
    }


def lint(template: Path, **options: Any) -> list[Any]:
    """What cfn-lint finds; imported here, it costs no other test process its three seconds."""
    from cfnlint.api import lint_file
    from cfnlint.config import ManualArgs

    found: list[Any] = lint_file(template, config=ManualArgs(**options))
    return found


@pytest.mark.lint
def test_cfn_lint_finds_nothing(compiled: Stack) -> None:
    """Errors and warnings alike.

    W3005 is osls' own doubled DependsOn, which harms nothing; W8003 that a condition is constant,
    which it is once a stage is compiled.
    """
    found = lint(
        compiled.folder / TEMPLATE,
        regions=["us-east-1", "eu-central-1"],
        ignore_checks=["W3005", "W8003"],
    )

    assert [str(match) for match in found] == []


@pytest.mark.lint
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_cfn_lint_knows_every_type_we_use(compiled: Stack, region: str) -> None:
    """A type without a schema would be passed over in silence."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    for kind in {resource["Type"] for resource in compiled.resources.values()}:
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(region, kind).schema
        assert schema["properties"], kind
        assert schema.get("additionalProperties") is False, kind


@pytest.mark.lint
def test_cfn_lint_finds_what_is_planted_in_each_type_that_moto_lacks(
    stacks: dict[str, Stack], tmp_path: Path
) -> None:
    """Clean means looked at: a misspelt property and a reference to nowhere, one of each a type."""
    template = json.loads(json.dumps(stacks["prod"].template))
    planted = {}
    for name, resource in template["Resources"].items():
        if resource["Type"] in NOT_IN_MOTO | BY_THEIR_OWN_API and resource["Type"] not in planted:
            first = next(iter(resource["Properties"]))
            resource["Properties"][first] = {"Fn::GetAtt": ["ServiceKey", "Nothing"]}
            resource["Properties"]["Misspelt"] = 1
            planted[resource["Type"]] = name
    template["Resources"]["Tick"]["Properties"]["Target"]["Arn"] = {"Ref": "Nowhere"}
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(template, indent=2))

    found = lint(broken, regions=["us-east-1"])

    unknown = {str(m.path[1]) for m in found if "Misspelt" in m.message and m.path}
    dangling = {str(m.path[1]) for m in found if "Nothing" in m.message and m.path}
    assert set(planted) == NOT_IN_MOTO | BY_THEIR_OWN_API
    assert unknown == set(planted.values())
    assert dangling == set(planted.values())
    assert any("Nowhere" in match.message for match in found)


def references(value: Any) -> Iterator[str]:
    """Logical ids that a value refers to, in whatever way."""
    match value:
        case {"Ref": str() as name}:
            yield name
        case {"Fn::GetAtt": [name, *_]}:
            yield name
        case {"Fn::Sub": str() as text}:
            yield from (name.split(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text))
        case dict():
            for item in value.values():
                yield from references(item)
        case list():
            for item in value:
                yield from references(item)


def test_every_reference_has_its_target(compiled: Stack) -> None:
    """References, order and outputs; a dangling one fails a deploy half way."""
    known = {*compiled.resources, *compiled.template.get("Parameters", {})}
    used = set(references(compiled.template["Resources"])) | set(
        references(compiled.template["Outputs"])
    )
    for resource in compiled.resources.values():
        depends = resource.get("DependsOn", [])
        used |= {depends} if isinstance(depends, str) else set(depends)

    assert {name for name in used if not name.startswith("AWS::")} <= known


def test_nothing_is_made_that_nothing_reaches(compiled: Stack) -> None:
    """A queue without a sender, a policy without its bucket: somebody forgot the other half."""
    leaves = {
        "AWS::ApiGatewayV2::Route", "AWS::ApiGatewayV2::Stage", "AWS::Budgets::Budget",
        "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard", "AWS::KMS::Alias",
        "AWS::Lambda::EventInvokeConfig", "AWS::Lambda::Permission", "AWS::S3::BucketPolicy",
        "AWS::SNS::Subscription", "AWS::SQS::QueuePolicy", "AWS::Scheduler::Schedule",
        "AWS::CloudFront::Distribution", "AWS::IAM::Policy",
    }  # fmt: skip
    used = set(references(compiled.template["Resources"]))
    named = {
        group["LogGroupName"].rsplit("/", 1)[-1]
        for group in compiled.of_type("AWS::Logs::LogGroup").values()
    }
    functions = compiled.of_type("AWS::Lambda::Function").values()

    assert named >= {function["FunctionName"] for function in functions}
    assert [
        name
        for name, resource in compiled.resources.items()
        if resource["Type"] not in leaves | {"AWS::Logs::LogGroup"} and name not in used
    ] == []


def test_every_queue_of_failures_has_its_alarms(compiled: Stack) -> None:
    """One for what waits for a person, one for what could not even be put there.

    Wake-ups of a busy worker wait for nobody: `WorkersTooFew` tells of them, and clears itself.
    """
    alarms = compiled.of_type("AWS::CloudWatch::Alarm")
    watched = {
        flat(dimension["Value"])
        for alarm in alarms.values()
        for dimension in alarm.get("Dimensions", [])
        if dimension["Name"] == "QueueName"
    }

    assert watched == {"<TickFailures.QueueName>"}
    assert set(compiled.of_type("AWS::SQS::Queue")) == {"TickFailures", "WorkerFailures"}
    assert alarms["WorkersTooFewAlarm"]["MetricName"] == "AsyncEventsDropped"
    assert alarms["WorkerFailuresLostAlarm"]["MetricName"] == "DestinationDeliveryFailures"
    assert (
        alarms["TickFailuresLostAlarm"]["MetricName"]
        == "InvocationsFailedToBeSentToDeadLetterCount"
    )


def test_the_share_of_failed_requests_counts_requests(compiled: Stack) -> None:
    """Zero failures are no data, and no requests are no failure."""
    [rate, failed, requests] = compiled.resources["Api5xxAlarm"]["Properties"]["Metrics"]

    assert (rate["Expression"], "ReturnData" in rate) == ("100 * FILL(failed, 0) / requests", False)
    api = {"ApiId": {"Ref": "HttpApi"}}
    assert failed == counted("failed", "AWS/ApiGateway", "5xx", api)
    assert requests == counted("requests", "AWS/ApiGateway", "Count", api)


def counted(name: str, namespace: str, metric: str, of: dict[str, Any]) -> dict[str, Any]:
    """A minute's sum, for an alarm to reckon with."""
    dimensions = [{"Name": key, "Value": value} for key, value in of.items()]
    measured = {"Namespace": namespace, "MetricName": metric, "Dimensions": dimensions}
    stat = {"Metric": measured, "Period": 60, "Stat": "Sum"}
    return {"Id": name, "ReturnData": False, "MetricStat": stat}


def test_the_first_tick_waits_for_the_slow_part_of_the_stack(compiled: Stack) -> None:
    """Secrets come after the stack; ticks without them would wake somebody on the first day."""
    assert set(compiled.resources["Tick"]["DependsOn"]) == {"UploadsBucket", "TicksMissedAlarm"}
    assert "Console.DomainName" in str(compiled.resources["UploadsBucket"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_role_may_do_exactly_this(compiled: Stack, name: str) -> None:
    """One right more or less is a decision, so it fails here first."""
    assert (
        compiled.role(name) == base_rights(compiled.stage, name) | more_rights(compiled.stage)[name]
    )


#: What each boto3 call in our code needs; a call that is not here has no right yet.
CALLS = {
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "upload_fileobj": "s3:PutObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "complete_multipart_upload": "s3:PutObject",
    "list_parts": "s3:ListMultipartUploadParts",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "download_fileobj": "s3:GetObject",
    "generate_data_key": "kms:GenerateDataKey",
    "decrypt": "kms:Decrypt",
    "invoke": "lambda:InvokeFunction",
    "get_parameter": "ssm:GetParameter",
}
#: Words of the libraries we use that AWS also uses: pydantic's, cryptography's.
THEIRS = {"get_secret_value", "encrypt", "sign", "verify"}
SERVICES = ("s3", "kms", "lambda", "ssm", "sqs", "sns", "secretsmanager", "scheduler", "events")


def test_every_aws_call_of_the_code_has_its_right(stacks: dict[str, Stack]) -> None:
    """Moto grants everything, so a missing right would show on AWS alone."""
    session = botocore.session.get_session()
    methods = {
        xform_name(operation)
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
    } | {"upload_fileobj", "download_fileobj", "upload_file", "download_file"}
    texts = [
        path.read_text("utf-8")
        for folder in (*(f"minutehand/{part}" for part in PARTS), "minutehand_apps")
        for path in (ROOT / "shared" / folder).rglob("*.py")
    ]
    # a name that one of our own modules defines is called on that, not on AWS
    ours = {name for text in texts for name in re.findall(r"\bdef ([a-z_]+)\(", text)}
    called = {
        name
        for text in texts
        for name in re.findall(r"""(?:\.|["'])([a-z_]+)(?:["']|\(|,)""", text)
        if name in methods - THEIRS - ours
    }
    granted = {action for name in FUNCTIONS for action, _, _ in stacks["prod"].role(name)}
    unknown = called - set(CALLS)

    assert called >= {"create_multipart_upload", "generate_data_key", "invoke"}
    assert unknown == set()
    assert {CALLS[name] for name in called & set(CALLS)} <= granted


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_a_role_of_its_own_that_only_lambda_assumes(
    compiled: Stack, name: str
) -> None:
    """A shared role is the sum of everybody's rights."""
    role = compiled.resources[f"{name.capitalize()}Role"]["Properties"]

    assert flat(compiled.function(name)["Role"]) == f"<{name.capitalize()}Role.Arn>"
    assert "ManagedPolicyArns" not in role
    assert role["AssumeRolePolicyDocument"]["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ]


def test_there_is_no_role_that_was_not_requested(compiled: Stack) -> None:
    """Osls adds a shared default role when one function forgets its own."""
    assert set(compiled.of_type("AWS::IAM::Role")) == {
        *(f"{name.capitalize()}Role" for name in FUNCTIONS),
        "TickRole",
    }


def test_the_schedule_may_invoke_the_worker_and_keep_its_failures(compiled: Stack) -> None:
    """The scheduler's role is trusted by the scheduler alone, for this account's group alone."""
    role = compiled.resources["TickRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]

    assert compiled.role("tick") == {
        (
            "lambda:InvokeFunction",
            f"arn:aws:lambda:here:function:minutehand-{compiled.stage}-worker",
            "",
        ),
        ("sqs:SendMessage", "<TickFailures.Arn>", ""),
    }
    [trust] = role
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert set(trust["Condition"]["StringEquals"]) == {"aws:SourceAccount", "aws:SourceArn"}


def test_one_schedule_ticks_every_minute(compiled: Stack) -> None:
    """Two would double every tick; a rule beside it would be the second."""
    schedule = compiled.one("AWS::Scheduler::Schedule")

    assert compiled.of_type("AWS::Events::Rule") == {}
    assert schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["State"] == "ENABLED"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert flat(schedule["Target"]["Arn"]) == "<WorkerLambdaFunction.Arn>"
    assert flat(schedule["Target"]["RoleArn"]) == "<TickRole.Arn>"
    assert flat(schedule["Target"]["DeadLetterConfig"]["Arn"]) == "<TickFailures.Arn>"
    assert schedule["Target"]["RetryPolicy"] == {
        "MaximumRetryAttempts": 1,
        "MaximumEventAgeInSeconds": 60,
    }
    assert json.loads(schedule["Target"]["Input"])["source"] == "minutehand.tick"


def test_lambda_never_repeats_a_worker_invoke(compiled: Stack) -> None:
    """The database is the retry engine; what fails for good is kept with its error."""
    config = compiled.one("AWS::Lambda::EventInvokeConfig")

    assert flat(config["FunctionName"]) == "<WorkerLambdaFunction>"
    assert config["MaximumRetryAttempts"] == 0
    assert config["MaximumEventAgeInSeconds"] == 60
    assert flat(config["DestinationConfig"]["OnFailure"]["Destination"]) == "<WorkerFailures.Arn>"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_traced_logged_in_json_and_kept_for_a_while(
    compiled: Stack, name: str
) -> None:
    """A log group without retention is kept, and paid for, for ever."""
    function = compiled.function(name)
    [group] = [
        group
        for group in compiled.of_type("AWS::Logs::LogGroup").values()
        if group["LogGroupName"] == f"/aws/lambda/{function['FunctionName']}"
    ]

    assert group["RetentionInDays"] == {"dev": 30, "prod": 90}[compiled.stage]
    assert function["TracingConfig"] == {"Mode": "Active"}
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    assert function["Runtime"] == "python3.13"
    assert function["Architectures"] == ["arm64"]
    assert function["Handler"] == f"functions.{name}.handler.handler"


def test_every_log_group_has_a_retention(compiled: Stack) -> None:
    """The API's access log too."""
    groups = compiled.of_type("AWS::Logs::LogGroup")

    assert len(groups) == 5
    days = {"dev": 30, "prod": 90}[compiled.stage]
    assert {group["RetentionInDays"] for group in groups.values()} == {days}
    kept = compiled.one("AWS::ApiGatewayV2::Stage")["AccessLogSettings"]["DestinationArn"]
    assert flat(kept) == "<HttpApiLogGroup.Arn>"


def test_the_alarms_are_these_and_each_says_what_to_do(compiled: Stack) -> None:
    """An alarm without a runbook line only wakes somebody."""
    alarms = compiled.of_type("AWS::CloudWatch::Alarm")

    assert {name.removesuffix("Alarm") for name in alarms} == ALARMS
    for name, alarm in alarms.items():
        assert alarm["AlarmDescription"].startswith("Runbook: "), name
        assert 60 < len(alarm["AlarmDescription"]) <= 1024, name
        assert alarm["AlarmName"] == f"minutehand-{compiled.stage}-{name.removesuffix('Alarm')}"
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "Alerts"}], name
        assert alarm["Tags"] == own_tags(compiled.stage), name
        expected = (
            "breaching" if name.removesuffix("Alarm") in SILENCE_IS_A_FAULT else "notBreaching"
        )
        assert alarm["TreatMissingData"] == expected, name


def test_a_silent_schedule_is_noticed_within_minutes(compiled: Stack) -> None:
    """Wake-ups keep the worker busy, so its invocations cannot prove that the schedule lives."""
    alarms = compiled.of_type("AWS::CloudWatch::Alarm")
    stopped, missed = alarms["ScheduleStoppedAlarm"], alarms["TicksMissedAlarm"]
    group = compiled.one("AWS::Scheduler::ScheduleGroup")["Name"]

    assert stopped["Namespace"] == "AWS/Scheduler"
    assert stopped["Dimensions"] == [{"Name": "ScheduleGroup", "Value": group}]
    assert stopped["Period"] * stopped["EvaluationPeriods"] <= 300
    assert missed["EvaluationPeriods"] <= 5
    for alarm in (stopped, missed):
        assert alarm["ComparisonOperator"] == "LessThanThreshold"
        assert alarm["Threshold"] == 1


def test_busy_workers_are_no_missed_tick(compiled: Stack) -> None:
    """While all of them run none starts, and a throttled tick still proves that the clock ticks."""
    [ticks, *parts] = compiled.resources["TicksMissedAlarm"]["Properties"]["Metrics"]
    worker = {"FunctionName": {"Ref": "WorkerLambdaFunction"}}

    assert ticks["Expression"] == "FILL(started, 0) + FILL(throttled, 0)"
    assert "ReturnData" not in ticks
    assert parts == [
        counted("started", "AWS/Lambda", "Invocations", worker),
        counted("throttled", "AWS/Lambda", "Throttles", worker),
    ]


def test_duration_alarms_fire_before_the_timeout(compiled: Stack) -> None:
    """After it there is only a killed process and no line in the log."""
    for name in FUNCTIONS:
        timeout_ms = 1000 * compiled.function(name)["Timeout"]
        alarm = compiled.resources[f"{name.capitalize()}NearTimeoutAlarm"]["Properties"]

        assert 0.7 * timeout_ms <= alarm["Threshold"] < timeout_ms, name


def test_our_own_metrics_are_the_ones_the_worker_writes(compiled: Stack) -> None:
    """An alarm on a misspelt metric sleeps for ever."""
    from minutehand.worker.metrics import NAMESPACE, tick_line
    from minutehand.worker.summary import TickSummary

    line = json.loads(
        tick_line(
            TickSummary(worker_id="w", tick_id="t"),
            stage=compiled.stage,
            at_ms=0,
            wait_ms=[1.0],
            run_ms=[1.0],
            oldest_due_seconds=1.0,
        )
    )
    [written] = line["_aws"]["CloudWatchMetrics"]
    names = {metric["Name"] for metric in written["Metrics"]}
    used = {
        alarm["MetricName"]
        for alarm in compiled.of_type("AWS::CloudWatch::Alarm").values()
        if alarm.get("Namespace") == NAMESPACE
    }
    body = json.loads(compiled.one("AWS::CloudWatch::Dashboard")["DashboardBody"]["Fn::Sub"])
    drawn = {
        metric[1]
        for widget in body["widgets"]
        for metric in widget["properties"]["metrics"]
        if metric[0] == NAMESPACE
    }

    assert used == {"OldestDueSeconds", "DeadLetters", "WorkerKeyDays"}
    # the schedule's own line, see functions/worker/invocations.py
    assert used | drawn <= names | {"WorkerKeyDays"}
    assert written["Dimensions"] == [["stage"]]


def test_no_secret_is_in_the_template(compiled: Stack) -> None:
    """CloudFormation and the Lambda console show every environment variable in plain text."""
    text = json.dumps(compiled.template)

    assert not re.search(
        r"sb_secret_|eyJ[A-Za-z0-9_-]{10,}|BEGIN [A-Z ]*PRIVATE|AKIA[0-9A-Z]{16}", text
    )
    assert "resolve:ssm" not in text
    assert "resolve:secretsmanager" not in text


ENVIRONMENT = {
    "STAGE",
    "MINUTEHAND_VERSION",
    "MINUTEHAND_COMMIT",
    "MINUTEHAND_SOURCE",
    "LOG_LEVEL",
    "SUPABASE_URL",
    "SUPABASE_PUBLISHABLE_KEY",
    "ALLOW_ANONYMOUS",
    "SECRETS_PARAMETER",
    "MINUTEHAND_APPS",
    "MINUTEHAND_SCHEMA",
}
MORE_ENVIRONMENT = {
    "jobs": {
        "CORS_ORIGINS",
        "STREAM_WAIT_SECONDS",
        "WORKER_FUNCTION_NAME",
        "UPLOADS_BUCKET",
        "UPLOADS_TYPES",
        "UPLOADS_MAX_BYTES",
        "TRAINING_SOURCE_HOSTS",
        "ENABLE_ASYNC_WORK",
        "LANGUAGE_MODEL_URL",
        "KMS_KEY_ID",
    },
    "status": {"CORS_ORIGINS", "STREAM_WAIT_SECONDS"},
    "worker": {
        "CORS_ORIGINS",
        "WORKER_FUNCTION_NAME",
        "WORKER_CONCURRENCY",
        "EXTRA_WORKERS",
        "WORKERS_AT_ONCE",
        "LANGUAGE_MODEL_URL",
        "LANGUAGE_MODEL",
        "LANGUAGE_MODEL_PRICES",
        "SPEECH_URL",
        "SPEECH_MODEL",
        "FFMPEG_PATH",
        "MUX_BASE_URL",
        "TRAINING_SOURCE_HOSTS",
        "TRAINING_MAX_RUNNING",
        "ENABLE_ASYNC_WORK",
        "CHAT_SEARCH_URL",
        "UPLOADS_BUCKET",
        "KMS_KEY_ID",
    },
    "health": set(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_functions_environment_is_exactly_this(compiled: Stack, name: str) -> None:
    """Secrets come from its own parameter in SSM, read at init."""
    variables = compiled.function(name)["Environment"]["Variables"]

    assert set(variables) == ENVIRONMENT | MORE_ENVIRONMENT[name]
    assert variables["SECRETS_PARAMETER"] == f"/minutehand/{compiled.stage}/{name}"


def test_there_are_no_versions_and_no_aliases(compiled: Stack) -> None:
    """What the page on deploys says: an update replaces the one version there is."""
    assert not compiled.of_type("AWS::Lambda::Version")
    assert not compiled.of_type("AWS::Lambda::Alias")


def test_the_environment_is_what_settings_reads(compiled: Stack) -> None:
    """A variable nobody reads is a typing error in one of the two places."""
    from minutehand.config import EXAMPLES

    of_apps = {
        "FFMPEG_PATH", "UPLOADS_TYPES", "UPLOADS_MAX_BYTES", "TRAINING_SOURCE_HOSTS",
        "TRAINING_MAX_RUNNING", "ENABLE_ASYNC_WORK", "CHAT_SEARCH_URL", "MUX_BASE_URL",
    }  # fmt: skip
    known = {*EXAMPLES, "STAGE", "SECRETS_PARAMETER", "MINUTEHAND_VERSION", *of_apps}
    for name in FUNCTIONS:
        assert set(compiled.function(name)["Environment"]["Variables"]) <= known


def test_buckets_are_private_encrypted_and_over_tls(compiled: Stack) -> None:
    """Uploads are other people's videos."""
    for name, bucket in compiled.of_type("AWS::S3::Bucket").items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256", name
        policies = [
            policy["PolicyDocument"]["Statement"]
            for policy in compiled.of_type("AWS::S3::BucketPolicy").values()
            if flat(policy["Bucket"]) == f"<{name}>"
        ]
        assert any(
            statement["Effect"] == "Deny" and "aws:SecureTransport" in str(statement["Condition"])
            for statements in policies
            for statement in statements
        ), name


def test_a_browser_may_upload_and_look_and_nothing_else(compiled: Stack) -> None:
    """A part is signed with its checksum, which the browser must be let send."""
    bucket = compiled.resources["UploadsBucket"]["Properties"]
    apps, with_console = bucket["CorsConfiguration"]["CorsRules"]

    for rule in (apps, with_console["Fn::If"][1]):
        assert rule["AllowedMethods"] == ["GET", "PUT"]
        assert {"content-type", "x-amz-checksum-sha256"} <= set(rule["AllowedHeaders"])


def test_unfinished_uploads_do_not_stay(compiled: Stack) -> None:
    """Parts of an upload nobody completed are invisible and paid for."""
    bucket = compiled.resources["UploadsBucket"]["Properties"]
    rules = {rule["Id"]: rule for rule in bucket["LifecycleConfiguration"]["Rules"]}
    apps, with_console = bucket["CorsConfiguration"]["CorsRules"]
    condition, console, without = with_console["Fn::If"]

    assert rules["AbortUnfinishedUploads"]["AbortIncompleteMultipartUpload"] == {
        "DaysAfterInitiation": 2
    }
    assert rules["ExpireUploads"]["ExpirationInDays"] > 0
    assert apps["ExposedHeaders"] == console["ExposedHeaders"] == ["ETag"]
    assert "*" not in apps["AllowedOrigins"]
    assert (condition, without) == ("HasConsole", {"Ref": "AWS::NoValue"})
    assert [flat(origin) for origin in console["AllowedOrigins"]] == [
        "https://${Console.DomainName}"
    ]


def test_the_console_is_read_through_its_own_distribution_only(compiled: Stack) -> None:
    """A bucket that CloudFront in general may read can be read through anybody's distribution."""
    statements = compiled.resources["ConsoleByCloudFrontOnly"]["Properties"]["PolicyDocument"]
    allow = [s for s in statements["Statement"] if s["Effect"] == "Allow"]
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]
    headers = compiled.one("AWS::CloudFront::ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]
    security = headers["SecurityHeadersConfig"]
    policy = flat(security["ContentSecurityPolicy"]["ContentSecurityPolicy"])

    for statement in allow:
        assert statement["Principal"] == {"Service": "cloudfront.amazonaws.com"}
        assert "distribution/${Console}" in flat(
            statement["Condition"]["StringEquals"]["aws:SourceArn"]
        )
    assert config["DefaultCacheBehavior"]["ViewerProtocolPolicy"] == "redirect-to-https"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_no_edge_keeps_what_the_api_answers(compiled: Stack) -> None:
    """One person's jobs would be another's; whose they are is said by what is passed on."""
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]

    for behaviour in config["CacheBehaviors"]:
        assert behaviour["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"  # disabled
        assert behaviour["OriginRequestPolicyId"] == "b689b0a8-53d0-40ab-baf2-68738e2966ac"
        assert behaviour["TargetOriginId"] == "api"
        assert behaviour["ViewerProtocolPolicy"] == "https-only"
        assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(behaviour["AllowedMethods"])
    origins = {origin["Id"]: origin for origin in config["Origins"]}
    assert origins["api"]["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
    assert config["DefaultCacheBehavior"]["TargetOriginId"] == "console"
    assert config["DefaultCacheBehavior"]["AllowedMethods"] == ["GET", "HEAD"]


def test_cors_names_its_origins(compiled: Stack) -> None:
    """A wildcard would let any page spend a signed-in user's quota."""
    cors = compiled.one("AWS::ApiGatewayV2::Api")["CorsConfiguration"]

    origins = {"dev": "http://127.0.0.1:8000", "prod": "https://<your-app-domain>"}
    assert cors["AllowOrigins"] == [origins[compiled.stage]]


def test_the_gateway_allows_and_shows_the_headers_that_the_app_does(compiled: Stack) -> None:
    """Configured CORS replaces the app's own: what is missing, no browser ever sees."""
    cors = compiled.one("AWS::ApiGatewayV2::Api")["CorsConfiguration"]
    app = create_app(
        Services(
            Settings(supabase_url="http://127.0.0.1:1", supabase_publishable_key="sb_publishable_x")
        ),
        [],
    )
    [options] = [
        dict[str, Any](m.kwargs)
        for m in app.user_middleware
        if isinstance(m.cls, type) and issubclass(m.cls, AllowedOrigins)
    ]

    def lowered(name: str) -> set[str]:
        return {str(header).lower() for header in options[name]}

    assert lowered("allow_headers") <= set(cors["AllowHeaders"])
    assert lowered("expose_headers") <= set(cors["ExposeHeaders"])
    assert {"idempotent-replayed", "location", "retry-after", "x-request-id"} <= set(
        cors["ExposeHeaders"]
    )
    assert set(options["allow_methods"]) <= set(cors["AllowMethods"])


def test_writes_are_throttled_below_reads(compiled: Stack) -> None:
    """One enthusiastic client must not fill the queue for everybody."""
    settings = compiled.one("AWS::ApiGatewayV2::Stage")
    default = settings["DefaultRouteSettings"]
    keys = {route["RouteKey"] for route in compiled.of_type("AWS::ApiGatewayV2::Route").values()}

    assert default["ThrottlingRateLimit"] > 0
    assert set(settings["RouteSettings"]) <= keys
    assert {"POST /api/jobs", "POST /api/jobs/bulk", "POST /api/jobs/worker"} <= set(
        settings["RouteSettings"]
    )
    for limits in settings["RouteSettings"].values():
        assert limits["ThrottlingRateLimit"] < default["ThrottlingRateLimit"]
    made_first = compiled.resources["HttpApiStage"]["DependsOn"]
    ids = {"Jobs", "JobsBulk", "JobsWorker", "JobsProcess"}
    assert {f"HttpApiRoutePostApi{each}" for each in ids} <= set(made_first)


ROUTES = {
    "jobs": {
        "POST /api/jobs", "POST /api/jobs/bulk", "POST /api/jobs/{proxy+}", "ANY /api/{proxy+}",
    },
    "status": {
        "GET /api/jobs", "GET /api/jobs/{proxy+}", "GET /api/workspaces/{workspace_id}/events",
        "GET /api/sessions/{session_id}/events", "GET /api/types", "GET /api/types/{proxy+}",
        "GET /api/logs", "GET /api/receipts", "GET /api/keys",
        "GET /api/status", "GET /api/openapi.json",
    },
    "worker": {"GET /api/jobs/worker", "POST /api/jobs/worker", "POST /api/jobs/process"},
    "health": {"GET /health", "GET /api/v1/health", "GET /api/health/ready"},
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_route_leads_to_the_function_that_may_do_what_it_asks(compiled: Stack, name: str) -> None:
    """Reads to the one that never writes, ticks to the worker, everything else to `jobs`."""
    integration = f"HttpApiIntegration{name.capitalize()}"

    assert flat(compiled.resources[integration]["Properties"]["IntegrationUri"]) == (
        f"<{name.capitalize()}LambdaFunction.Arn>"
    )
    assert {
        route["RouteKey"]
        for route in compiled.of_type("AWS::ApiGatewayV2::Route").values()
        if {"Ref": integration} in route["Target"]["Fn::Join"][1]
    } == ROUTES[name]


def test_no_metric_is_paid_for_that_no_one_reads(compiled: Stack) -> None:
    """Route-level metrics are custom metrics on the bill; the alarms read the API's own."""
    settings = compiled.one("AWS::ApiGatewayV2::Stage")

    assert not settings["DefaultRouteSettings"]["DetailedMetricsEnabled"]
    assert not any(route["DetailedMetricsEnabled"] for route in settings["RouteSettings"].values())


def test_alarms_of_a_busy_worker_clear_themselves(compiled: Stack) -> None:
    """Saturation is no incident; a queue that only a person empties would stay one for ever."""
    alarms = compiled.of_type("AWS::CloudWatch::Alarm")
    too_few = alarms["WorkersTooFewAlarm"]

    assert (too_few["MetricName"], too_few["EvaluationPeriods"], too_few["DatapointsToAlarm"]) == (
        "AsyncEventsDropped", 15, 15,
    )  # fmt: skip
    watched = [alarm.get("Dimensions", [{}])[0].get("Value") for alarm in alarms.values()]
    assert {"Fn::GetAtt": ["WorkerFailures", "QueueName"]} not in watched


def test_streams_hold_no_function_unless_a_stage_says_so(compiled: Stack) -> None:
    """A new account has ten slots in all: twelve open pages would leave none for reads."""
    for name in ("jobs", "status"):
        variables = compiled.function(name)["Environment"]["Variables"]
        assert variables["STREAM_WAIT_SECONDS"] == "0"


def test_functions_behind_the_api_end_before_it_gives_up(compiled: Stack) -> None:
    """HTTP API waits 30 s; an answer after that is paid for and thrown away."""
    functions = {name: compiled.function(name) for name in FUNCTIONS}
    limits = {name: (each["MemorySize"], each["Timeout"]) for name, each in functions.items()}

    assert all(limits[name][1] < 30 for name in ("jobs", "status", "health"))
    assert limits == {
        "jobs": (1024, 20),
        "status": (1024, 28),  # a stream waits for 20 s
        "worker": (1769, 300),
        "health": (256, 8),
    }
    assert functions["worker"]["EphemeralStorage"] == {"Size": 512}


def test_workers_leave_a_new_account_room_and_reserve_nothing(compiled: Stack) -> None:
    """An account of ten has none to reserve, and what workers take the API lacks."""
    worker = compiled.function("worker")

    assert "ReservedConcurrentExecutions" not in worker
    assert worker["Environment"]["Variables"]["WORKERS_AT_ONCE"] == "5"
    assert worker["RecursiveLoop"] == "Terminate"


def test_everything_that_takes_tags_is_tagged(compiled: Stack) -> None:
    """The budget and the bill find the stack by its tags."""
    untagged = {
        name: resource["Type"]
        for name, resource in compiled.resources.items()
        if resource["Type"] in TAGGED
        and not _tags(resource["Properties"]).items()
        >= {"app": "minutehand", "stage": compiled.stage}.items()
    }

    assert untagged == {}


TAGGED = {
    "AWS::Lambda::Function",
    "AWS::IAM::Role",
    "AWS::SQS::Queue",
    "AWS::SNS::Topic",
    "AWS::KMS::Key",
    "AWS::CloudFront::Distribution",
    "AWS::ApiGatewayV2::Api",
    "AWS::CloudWatch::Alarm",
    "AWS::Scheduler::ScheduleGroup",
}


def _tags(properties: dict[str, Any]) -> dict[str, str]:
    tags = properties.get("Tags", {})
    return tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}


def test_data_outlives_the_stack(compiled: Stack) -> None:
    """Deleting the stack must not delete people's files, nor the key that opens their secrets."""
    for name in ("UploadsBucket", "ServiceKey"):
        assert compiled.resources[name]["DeletionPolicy"] == "RetainExceptOnCreate"
        assert compiled.resources[name]["UpdateReplacePolicy"] == "Retain"


def test_a_budget_warns_before_the_bill_does(compiled: Stack) -> None:
    """Spent and forecast, of this stage alone."""
    budget = compiled.one("AWS::Budgets::Budget")
    told = budget["NotificationsWithSubscribers"]
    kinds = {n["Notification"]["NotificationType"]: n["Notification"]["Threshold"] for n in told}

    assert kinds == {"ACTUAL": 80, "FORECASTED": 100}
    assert all(n["Notification"]["ComparisonOperator"] == "GREATER_THAN" for n in told)
    person = {"SubscriptionType": "EMAIL", "Address": "<you>@example.com"}
    assert all(n["Subscribers"] == [person] for n in told)
    assert budget["Budget"] == {
        "BudgetName": f"minutehand-{compiled.stage}-us-east-1",
        "BudgetType": "COST",
        "TimeUnit": "MONTHLY",
        "BudgetLimit": {"Amount": {"dev": 20, "prod": 100}[compiled.stage], "Unit": "USD"},
        "CostFilters": {"TagKeyValue": [f"user:stack$minutehand-{compiled.stage}"]},
    }
    assert _tags(compiled.function("worker"))["stack"] == f"minutehand-{compiled.stage}"


def test_without_the_console_there_is_no_cloudfront(compiled: Stack) -> None:
    """An account that AWS has not verified may make no distribution; cfn-lint tries both ways."""
    conditional = {
        name
        for name, resource in compiled.resources.items()
        if resource.get("Condition") == "HasConsole"
    }
    cloudfront = {
        name
        for name, resource in compiled.resources.items()
        if resource["Type"].startswith("AWS::CloudFront::")
    }

    assert conditional == cloudfront | {"ConsoleBucket", "ConsoleByCloudFrontOnly"}
    assert compiled.template["Outputs"]["ConsoleUrl"]["Condition"] == "HasConsole"
    assert "Condition" not in compiled.template["Outputs"]["HttpApiUrl"]


def denies_plain_http(service: str, *resources: str) -> dict[str, Any]:
    """The statement that no one may speak to these without TLS."""
    return {
        "Sid": "DenyPlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": f"{service}:*",
        "Resource": [
            {"Fn::GetAtt": [name, "Arn"]} if "$" not in name else {"Fn::Sub": name}
            for name in resources
        ],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def test_no_one_speaks_to_a_bucket_or_a_queue_without_tls(compiled: Stack) -> None:
    """Each of them, with all that is in it; the one other statement is CloudFront's to read."""
    statements = {
        name: compiled.resources[name]["Properties"]["PolicyDocument"]["Statement"]
        for name in ("UploadsOverTlsOnly", "ConsoleByCloudFrontOnly", "QueuesOverTlsOnly")
    }
    by_cloudfront = {
        "Effect": "Allow",
        "Principal": {"Service": "cloudfront.amazonaws.com"},
        "Condition": {
            "StringEquals": {
                "aws:SourceArn": {
                    "Fn::Sub": "arn:${AWS::Partition}:cloudfront::${AWS::AccountId}"
                    ":distribution/${Console}"
                }
            }
        },
    }

    assert statements["UploadsOverTlsOnly"] == [
        denies_plain_http("s3", "UploadsBucket", "${UploadsBucket.Arn}/*")
    ]
    assert statements["QueuesOverTlsOnly"] == [
        denies_plain_http("sqs", "WorkerFailures", "TickFailures")
    ]
    assert statements["ConsoleByCloudFrontOnly"] == [
        {
            "Sid": "ReadByThisDistribution",
            "Action": "s3:GetObject",
            "Resource": {"Fn::Sub": "${ConsoleBucket.Arn}/*"},
            **by_cloudfront,
        },
        {
            "Sid": "TellMissingFromForbidden",
            "Action": "s3:ListBucket",
            "Resource": {"Fn::GetAtt": ["ConsoleBucket", "Arn"]},
            **by_cloudfront,
        },
        denies_plain_http("s3", "ConsoleBucket", "${ConsoleBucket.Arn}/*"),
    ]
    policy = compiled.one("AWS::SQS::QueuePolicy")
    assert policy["Queues"] == [{"Ref": "WorkerFailures"}, {"Ref": "TickFailures"}]


def test_a_bucket_belongs_to_the_account_alone(compiled: Stack) -> None:
    """Neither a list of grants nor a policy can open it, and its key costs one call a day."""
    for bucket in compiled.of_type("AWS::S3::Bucket").values():
        assert bucket["PublicAccessBlockConfiguration"] == {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        }
    unfinished = {
        "Id": "AbortUnfinishedUploads",
        "Status": "Enabled",
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
    }
    kept = {"Id": "ExpireUploads", "Status": "Enabled", "ExpirationInDays": 30}
    for name, rules in (("UploadsBucket", [unfinished, kept]), ("ConsoleBucket", [unfinished])):
        bucket = compiled.resources[name]["Properties"]
        [encryption] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert encryption["BucketKeyEnabled"] is True
        assert bucket["OwnershipControls"] == {
            "Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]
        }
        assert bucket["LifecycleConfiguration"] == {"Rules": rules}
        assert bucket["Tags"] == own_tags(compiled.stage)


def own_tags(stage: str) -> list[dict[str, str]]:
    """Those of a resource that is not a function's."""
    return [{"Key": "app", "Value": "minutehand"}, {"Key": "stage", "Value": stage}]


def test_a_browser_asks_once_an_hour_whether_it_may_upload(compiled: Stack) -> None:
    """With these headers, from the stage's origins and from the console's."""
    apps, console = compiled.resources["UploadsBucket"]["Properties"]["CorsConfiguration"][
        "CorsRules"
    ]
    origins = {"dev": "http://127.0.0.1:8000", "prod": "https://<your-app-domain>"}
    rule = {
        "AllowedOrigins": [origins[compiled.stage]],
        "AllowedMethods": ["GET", "PUT"],
        "AllowedHeaders": ["content-type", "content-md5", "x-amz-checksum-sha256"],
        "ExposedHeaders": ["ETag"],
        "MaxAge": 3600,
    }

    assert apps == rule
    of_console = {"AllowedOrigins": [{"Fn::Sub": "https://${Console.DomainName}"}]}
    assert console["Fn::If"][1] == rule | of_console


def test_failures_are_kept_and_alarms_are_mailed(compiled: Stack) -> None:
    """Wake-ups of a busy worker for three days, ticks for fourteen, which is the most."""
    queues = compiled.of_type("AWS::SQS::Queue")
    assert queues == {
        f"{name}Failures": {
            "QueueName": f"minutehand-{compiled.stage}-{name.lower()}-failures",
            "MessageRetentionPeriod": seconds,
            "SqsManagedSseEnabled": True,
            "Tags": own_tags(compiled.stage),
        }
        for name, seconds in (("Worker", 259_200), ("Tick", 1_209_600))
    }
    assert compiled.one("AWS::SNS::Topic") == {
        "TopicName": f"minutehand-{compiled.stage}-alerts",
        "Tags": own_tags(compiled.stage),
    }
    assert compiled.one("AWS::SNS::Subscription") == {
        "TopicArn": {"Ref": "Alerts"},
        "Protocol": "email",
        "Endpoint": "<you>@example.com",
    }


def test_the_key_is_renewed_and_ruled_by_the_roles_alone(compiled: Stack) -> None:
    """Its own policy gives the account the right to give rights, and no service any."""
    key = compiled.one("AWS::KMS::Key")

    assert key.pop("Description").startswith(f"Minutehand {compiled.stage}: ")
    assert key == {
        "EnableKeyRotation": True,
        "PendingWindowInDays": 30,
        "KeyPolicy": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "AccountAdministersThroughIam",
                    "Effect": "Allow",
                    "Principal": {
                        "AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}
                    },
                    "Action": "kms:*",
                    "Resource": "*",
                }
            ],
        },
        "Tags": own_tags(compiled.stage),
    }
    assert compiled.one("AWS::KMS::Alias") == {
        "AliasName": f"alias/minutehand-{compiled.stage}",
        "TargetKeyId": {"Ref": "ServiceKey"},
    }


def test_a_tick_says_when_it_was_due_and_which_it_is(compiled: Stack) -> None:
    """Its group's metrics are its own; only this account's group may take on its role."""
    schedule = compiled.one("AWS::Scheduler::Schedule")
    role = compiled.resources["TickRole"]["Properties"]["AssumeRolePolicyDocument"]

    assert schedule["Name"] == f"minutehand-{compiled.stage}-tick"
    assert schedule["GroupName"] == {"Ref": "TickGroup"}
    assert compiled.one("AWS::Scheduler::ScheduleGroup")["Name"] == f"minutehand-{compiled.stage}"
    assert json.loads(schedule["Target"]["Input"]) == {
        "source": "minutehand.tick",
        "scheduled_at": "<aws.scheduler.scheduled-time>",
        "execution_id": "<aws.scheduler.execution-id>",
    }
    group = "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group"
    assert role["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "scheduler.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {
                    "aws:SourceAccount": {"Ref": "AWS::AccountId"},
                    "aws:SourceArn": {"Fn::Sub": f"{group}/minutehand-{compiled.stage}"},
                }
            },
        }
    ]
    roles = compiled.of_type("AWS::IAM::Role")
    for name in (*FUNCTIONS, "tick"):
        own = roles[f"{name.capitalize()}Role"]
        assert own["RoleName"] == f"minutehand-{compiled.stage}-us-east-1-{name}"
        assert own["AssumeRolePolicyDocument"]["Version"] == "2012-10-17"
        [policy] = own["Policies"]
        assert (policy["PolicyName"], policy["PolicyDocument"]["Version"]) == (name, "2012-10-17")


def test_the_distribution_serves_the_console_and_passes_the_api_on(compiled: Stack) -> None:
    """Over TLS 1.2 at least, with the same headers of safety on both."""
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]
    api = {
        "TargetOriginId": "api",
        "ViewerProtocolPolicy": "https-only",
        "AllowedMethods": ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"],
        "Compress": True,
        "CachePolicyId": "4135ea2d-6df8-44a3-9df3-4b5a84be39ad",
        "OriginRequestPolicyId": "b689b0a8-53d0-40ab-baf2-68738e2966ac",
        "ResponseHeadersPolicyId": {"Ref": "ConsoleHeaders"},
    }

    assert config == {
        "Comment": f"Minutehand {compiled.stage} console and API",
        "Enabled": True,
        "HttpVersion": "http2and3",
        "IPV6Enabled": True,
        "PriceClass": "PriceClass_100",
        "DefaultRootObject": "index.html",
        "ViewerCertificate": {"CloudFrontDefaultCertificate": True},
        "Origins": [
            {
                "Id": "console",
                "DomainName": {"Fn::GetAtt": ["ConsoleBucket", "RegionalDomainName"]},
                "OriginAccessControlId": {"Fn::GetAtt": ["ConsoleAccess", "Id"]},
                "S3OriginConfig": {"OriginAccessIdentity": ""},
            },
            {
                "Id": "api",
                "DomainName": {
                    "Fn::Sub": "${HttpApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}"
                },
                "CustomOriginConfig": {
                    "OriginProtocolPolicy": "https-only",
                    "OriginSSLProtocols": ["TLSv1.2"],
                    "OriginReadTimeout": 30,
                },
            },
        ],
        "DefaultCacheBehavior": {
            "TargetOriginId": "console",
            "ViewerProtocolPolicy": "redirect-to-https",
            "AllowedMethods": ["GET", "HEAD"],
            "Compress": True,
            "CachePolicyId": "658327ea-f89d-4fab-a63d-7e88639e58f6",
            "ResponseHeadersPolicyId": {"Ref": "ConsoleHeaders"},
            "FunctionAssociations": [
                {
                    "EventType": "viewer-request",
                    "FunctionARN": {"Fn::GetAtt": ["ConsolePages", "FunctionARN"]},
                }
            ],
        },
        "CacheBehaviors": [{**api, "PathPattern": path} for path in ("/api/*", "/health")],
    }
    access = compiled.one("AWS::CloudFront::OriginAccessControl")["OriginAccessControlConfig"]
    assert access.pop("Name") == f"minutehand-{compiled.stage}-us-east-1-console"
    assert access == {
        "OriginAccessControlOriginType": "s3",
        "SigningBehavior": "always",
        "SigningProtocol": "sigv4",
    }
    pages = compiled.one("AWS::CloudFront::Function")
    assert (pages["AutoPublish"], pages["FunctionConfig"]["Runtime"]) == (True, "cloudfront-js-2.0")


def test_a_page_of_the_console_may_do_no_more_than_it_needs(compiled: Stack) -> None:
    """It speaks to its own origin, to Supabase and to the uploads; no one frames it."""
    headers = compiled.one("AWS::CloudFront::ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]
    security = headers["SecurityHeadersConfig"]
    content = security.pop("ContentSecurityPolicy")
    policy = content["ContentSecurityPolicy"]["Fn::Sub"]
    [bucket] = set(re.findall(r"https://(\S+)\.s3\.\$\{AWS::Region\}", policy))
    [supabase] = set(re.findall(r"wss://([^ ;]+)", policy))
    uploads = " ".join(
        f"https://{bucket}.s3.{region}${{AWS::URLSuffix}}" for region in ("${AWS::Region}.", "")
    )

    assert content["Override"] is True
    assert dict(each.split(" ", 1) for each in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' data: {uploads}",
        "font-src": "'self'",
        "connect-src": f"'self' https://{supabase} wss://{supabase} {uploads}",
        "media-src": f"'self' {uploads}",
        "manifest-src": "'self'",
        "frame-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert security == {
        "ContentTypeOptions": {"Override": True},
        "FrameOptions": {"FrameOption": "DENY", "Override": True},
        "ReferrerPolicy": {"ReferrerPolicy": "no-referrer", "Override": True},
        "StrictTransportSecurity": {
            "AccessControlMaxAgeSec": 63_072_000,
            "IncludeSubdomains": True,
            "Override": True,
        },
    }
    assert headers["CustomHeadersConfig"]["Items"] == [
        {"Header": name, "Value": value, "Override": True}
        for name, value in (
            ("permissions-policy", "camera=(), microphone=(), geolocation=(), payment=()"),
            ("cross-origin-opener-policy", "same-origin"),
        )
    ]


def test_the_gateway_takes_so_many_requests_a_second(compiled: Stack) -> None:
    """Of all callers together: what a bill can become. Its log holds no one's token."""
    stage = compiled.one("AWS::ApiGatewayV2::Stage")

    def limits(settings: dict[str, Any]) -> tuple[int, int]:
        return settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]

    assert limits(stage["DefaultRouteSettings"]) == (500, 1000)
    assert {route: limits(each) for route, each in stage["RouteSettings"].items()} == {
        "POST /api/jobs": (200, 400),
        "POST /api/jobs/bulk": (20, 20),
        "POST /api/jobs/worker": (200, 200),
        "POST /api/jobs/process": (200, 200),
    }
    assert json.loads(stage["AccessLogSettings"]["Format"]) == {
        "time": "$context.requestTime",
        "request_id": "$context.requestId",
        "ip": "$context.identity.sourceIp",
        "route": "$context.routeKey",
        "status": "$context.status",
        "latency_ms": "$context.responseLatency",
        "integration_error": "$context.integrationErrorMessage",
    }
    cors = compiled.one("AWS::ApiGatewayV2::Api")["CorsConfiguration"]
    assert cors["MaxAge"] == 3600
    assert cors["AllowMethods"] == ["GET", "POST", "PUT", "PATCH", "DELETE"]
    assert cors["AllowHeaders"] == [
        "authorization", "content-type", "idempotency-key", "last-event-id", "traceparent",
        "x-request-id", "x-session-id",
    ]  # fmt: skip
    assert cors["ExposeHeaders"] == [
        "content-disposition", "idempotent-replayed", "location", "retry-after", "x-request-id",
        "x-session-id",
    ]  # fmt: skip


def test_each_function_knows_its_neighbours(compiled: Stack) -> None:
    """And what the stage says, by the values that AWS makes."""
    functions = {name: compiled.function(name) for name in FUNCTIONS}
    variables = {name: each["Environment"]["Variables"] for name, each in functions.items()}

    for name, function in functions.items():
        assert function["FunctionName"] == f"minutehand-{compiled.stage}-{name}"
        assert function["LoggingConfig"]["SystemLogLevel"] == "WARN"
        assert variables[name]["STAGE"] == compiled.stage
        assert variables[name]["LOG_LEVEL"] == "INFO"
        assert variables[name]["ALLOW_ANONYMOUS"] == "false"
        assert variables[name]["MINUTEHAND_SCHEMA"] == "public"
        assert variables[name]["SUPABASE_URL"] == "https://<project-ref>.supabase.co"
        assert variables[name]["SUPABASE_PUBLISHABLE_KEY"] == "sb_publishable_<key>"
        assert variables[name]["MINUTEHAND_APPS"] == "minutehand_apps.*"
        tags = {tag["Key"]: tag["Value"] for tag in function["Tags"]}
        stack = f"minutehand-{compiled.stage}"
        assert tags == {"app": "minutehand", "stage": compiled.stage, "stack": stack}
    for name in ("jobs", "worker"):
        assert variables[name]["WORKER_FUNCTION_NAME"] == f"minutehand-{compiled.stage}-worker"
        assert variables[name]["UPLOADS_BUCKET"] == {"Ref": "UploadsBucket"}
        assert variables[name]["KMS_KEY_ID"] == {"Fn::GetAtt": ["ServiceKey", "Arn"]}
    origins = {"dev": "http://127.0.0.1:8000", "prod": "https://<your-app-domain>"}
    assert {variables[name]["CORS_ORIGINS"] for name in ("jobs", "status", "worker")} == {
        origins[compiled.stage]
    }
    worker = variables["worker"]
    assert (worker["WORKER_CONCURRENCY"], worker["EXTRA_WORKERS"]) == ("5", "10")
    assert "Layers" not in functions["worker"] or functions["worker"]["Layers"] == []


def test_what_a_deploy_asks_of_the_stack_is_put_out(compiled: Stack) -> None:
    """Where to write secrets with which key, what to upload where, where failures wait."""
    outputs = compiled.template["Outputs"]

    assert {
        name: flat(each["Value"])
        for name, each in outputs.items()
        if not name.startswith(("HttpApi", "Serverless"))
    } == {
        "ServiceKeyArn": "<ServiceKey.Arn>",
        "WorkerFailuresUrl": "<WorkerFailures>",
        "TickFailuresUrl": "<TickFailures>",
        "AlertsTopic": "<Alerts>",
        "UploadsBucketName": "<UploadsBucket>",
        "ConsoleBucketName": "<ConsoleBucket>",
        "ConsoleUrl": "https://${Console.DomainName}",
        "ConsoleDistribution": "<Console>",
    }
    for name in ("ConsoleBucketName", "ConsoleUrl", "ConsoleDistribution"):
        assert outputs[name]["Condition"] == "HasConsole"
    assert compiled.template["Conditions"]["HasConsole"] == {"Fn::Equals": ["true", "true"]}


LAMBDA, OURS, SCHEDULER = "AWS/Lambda", "Minutehand", "AWS/Scheduler"
#: Of an alarm: where its metric is, its name, how it is counted, beyond what, how many minutes of
#: how many.
ALARM_AT = {
    **{
        f"{name}Errors": (LAMBDA, "Errors", "Sum", ">", 0, 2, 5)
        for name in ("Jobs", "Status", "Worker", "Health")
    },
    **{
        f"{name}Throttles": (LAMBDA, "Throttles", "Sum", ">", 0, 5, 5)
        for name in ("Jobs", "Status", "Health")
    },
    "WorkerThrottles": (LAMBDA, "Throttles", "Sum", ">", 0, 15, 15),
    "JobsNearTimeout": (LAMBDA, "Duration", "Maximum", ">", 16_000, 2, 5),
    "StatusNearTimeout": (LAMBDA, "Duration", "Maximum", ">", 22_400, 2, 5),
    "WorkerNearTimeout": (LAMBDA, "Duration", "Maximum", ">", 299_000, 2, 5),
    "HealthNearTimeout": (LAMBDA, "Duration", "Maximum", ">", 6_400, 2, 5),
    "OldestDueJob": (OURS, "OldestDueSeconds", "Maximum", ">", 180, 3, 3),
    "WorkerKeyExpires": (OURS, "WorkerKeyDays", "Minimum", "<", 7, 1, 5),
    "DeadLetters": (OURS, "DeadLetters", "Sum", ">", 0, 1, 5),
    "ScheduleStopped": (SCHEDULER, "InvocationAttemptCount", "Sum", "<", 1, 5, 5),
    "ScheduleDropped": (SCHEDULER, "InvocationDroppedCount", "Sum", ">", 0, 5, 5),
    "TickFailuresLost": (
        SCHEDULER, "InvocationsFailedToBeSentToDeadLetterCount", "Sum", ">", 0, 1, 5,
    ),
    "RecursionDropped": (LAMBDA, "RecursiveInvocationsDropped", "Sum", ">", 0, 1, 5),
    "WorkersTooFew": (LAMBDA, "AsyncEventsDropped", "Sum", ">", 0, 15, 15),
    "WorkerFailuresLost": (LAMBDA, "DestinationDeliveryFailures", "Sum", ">", 0, 1, 5),
    "TickFailuresWaiting": (
        "AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum", ">", 0, 1, 5,
    ),
    "TicksMissed": ("", "", "", "<", 1, 3, 3),
    "Api5xx": ("", "", "", ">", 1, 3, 5),
}  # fmt: skip


def test_each_alarm_is_raised_at_its_number(compiled: Stack) -> None:
    """What wakes a person, and after how long; those without a metric reckon with several."""
    signs = {"GreaterThanThreshold": ">", "LessThanThreshold": "<"}
    alarms = compiled.of_type("AWS::CloudWatch::Alarm")

    found: dict[str, tuple[Any, ...]] = {
        name.removesuffix("Alarm"): (
            alarm.get("Namespace", ""),
            alarm.get("MetricName", ""),
            alarm.get("Statistic", ""),
            signs[alarm["ComparisonOperator"]],
            pytest.approx(alarm["Threshold"]),
            alarm["DatapointsToAlarm"],
            alarm["EvaluationPeriods"],
        )
        for name, alarm in alarms.items()
    }
    assert found == ALARM_AT
    assert {alarm["Period"] for name, alarm in alarms.items() if "Period" in alarm} == {60}
    for name, alarm in alarms.items():
        match alarm.get("Namespace"):
            case "AWS/Lambda":
                function = next(
                    (each for each in FUNCTIONS if name.lower().startswith(each)), "worker"
                )
                assert alarm["Dimensions"] == [
                    {
                        "Name": "FunctionName",
                        "Value": {"Ref": f"{function.capitalize()}LambdaFunction"},
                    }
                ]
            case "Minutehand":
                assert alarm["Dimensions"] == [{"Name": "stage", "Value": compiled.stage}]
            case "AWS/Scheduler":
                assert alarm["Dimensions"] == [
                    {"Name": "ScheduleGroup", "Value": f"minutehand-{compiled.stage}"}
                ]


def test_one_screen_shows_what_waits_what_is_done_and_what_fails(compiled: Stack) -> None:
    """Each graph by its metrics and how they are counted, of this stage's functions alone."""
    board = compiled.one("AWS::CloudWatch::Dashboard")
    graphs = {
        widget["properties"]["title"]: [
            (*metric[1:-1], metric[-1]["stat"])
            for metric in widget["properties"]["metrics"]
            if len(metric) > 1
        ]
        for widget in json.loads(board["DashboardBody"]["Fn::Sub"])["widgets"]
    }
    stage, of_stage = compiled.stage, f"minutehand-{compiled.stage}"

    def of(metric: str, stat: str, *names: str) -> list[tuple[str, ...]]:
        return [(metric, "FunctionName", f"{of_stage}-{name}", stat) for name in names]

    assert board["DashboardName"] == of_stage
    assert graphs == {
        "Oldest due job, seconds": [("OldestDueSeconds", "stage", stage, "Maximum")],
        "Waiting from due to start, ms": [
            ("QueueWaitMs", "stage", stage, stat) for stat in ("p50", "p95", "p99")
        ],
        "Settled per minute": [
            (metric, "stage", stage, "Sum") for metric in ("Completed", "Retried", "DeadLetters")
        ],
        "Ticks and wake-ups": [
            *of("Invocations", "Sum", "worker"),
            ("InvocationAttemptCount", "ScheduleGroup", of_stage, "Sum"),
        ],
        "Errors": of("Errors", "Sum", *FUNCTIONS),
        "Throttles": of("Throttles", "Sum", *FUNCTIONS),
        "Duration p95, ms": of("Duration", "p95", *FUNCTIONS),
        "Workers at once": of("ConcurrentExecutions", "Maximum", "worker"),
        "API requests and failures": [
            (metric, "ApiId", "${HttpApi}", "Sum") for metric in ("Count", "4xx", "5xx")
        ],
        "API latency, ms": [("Latency", "ApiId", "${HttpApi}", stat) for stat in ("p50", "p99")],
        "Failed invokes kept": [
            ("ApproximateNumberOfMessagesVisible", "QueueName", f"{of_stage}-{name}", "Maximum")
            for name in ("worker-failures", "tick-failures")
        ],
        "Worker GB-seconds (estimate)": of("Duration", "Sum", "worker"),
    }
    assert "busy / 1000 * 1769 / 1024" in board["DashboardBody"]["Fn::Sub"]
