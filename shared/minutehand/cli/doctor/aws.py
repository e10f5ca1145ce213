"""The check of a deployed stage, which compares its resources on AWS with the stack's template."""

import json
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import chain
from typing import Any

from minutehand.cli.doctor.results import CheckResult, Target, check, fail, merge, ok, warn
from minutehand.cli.stage import Stage, translate_aws_errors
from minutehand.deploy.parameters import NEEDED, missing_for, parameter_name

Faults = Iterator[CheckResult]
#: Fields of a schedule that AWS returns, but rejects in a request that changes the schedule.
RESPONSE_FIELDS = {"Arn", "CreationDate", "LastModificationDate", "ResponseMetadata"}
#: Property of a function with the limit of its concurrent runs.
RESERVED = "ReservedConcurrentExecutions"
#: Properties of a function in the template that `create-function` does not accept.
NOT_IN_REQUEST = {"Tags", RESERVED, "RecursiveLoop"}
#: Attributes of the queue of failed invocations that the check compares with the template.
QUEUE_FIELDS = ("MessageRetentionPeriod", "Policy")
#: Values of a Lambda function without these properties in the template. In a VPC without a way to
#: the internet, the function cannot reach Supabase.
DEFAULTS = {"VpcConfig": {"SubnetIds": [], "SecurityGroupIds": []}, "Layers": []}
#: Properties of a function that other commands than `update-function-configuration` change.
OTHERS = {"Architectures", "Environment"}
#: Start and end of a schedule, which no deployment sets.
LIMITS = ("StartDate", "EndDate")
#: ARNs of resources by type. The placeholder {id} is the resource's name, or the id of a key.
ARNS = {
    "AWS::IAM::Role": "arn:{partition}:iam::{account}:role/{id}",
    "AWS::KMS::Key": "arn:{partition}:kms:{region}:{account}:key/{id}",
    "AWS::S3::Bucket": "arn:{partition}:s3:::{id}",
    "AWS::Lambda::Function": "arn:{partition}:lambda:{region}:{account}:function:{id}",
    "AWS::SQS::Queue": "arn:{partition}:sqs:{region}:{account}:{id}",
}
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
    """The resources of a stage. Each check yields the faults of one kind of resources."""

    def __init__(self, stage: Stage) -> None:
        self._denied: set[str] = set()
        self._stage, self._stack = stage, stage.stack
        self._outputs = stage.outputs()
        template = self._find("cloudformation", "get_template", StackName=self._stack) or {}
        self._template = template.get("TemplateBody", {}).get("Resources", {})
        found = self._find("cloudformation", "describe_stack_resources", StackName=self._stack)
        resources = (found or {}).get("StackResources", ())
        #: Values of references in the template, by name.
        self._ids = {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in resources
            if "PhysicalResourceId" in each
        }
        self._arn_parts: dict[str, str] = {}
        for each in resources[:1]:
            _, partition, _, region, account, _ = each["StackId"].split(":", 5)
            self._arn_parts = {"partition": partition, "region": region, "account": account}
            self._ids |= {"AWS::Partition": partition, "AWS::Region": region}
            self._ids["AWS::AccountId"] = account

    def check(self) -> CheckResult:
        """Return all faults, or only those of the key, without which no secret can be read."""
        others = chain(
            *map(self._check_role, (*NEEDED, "tick")),
            self._check_functions(),
            self._check_invocations(),
            self._check_callers(),
            self._check_api(),
            self._check_schedule(),
            self._check_log(),
            self._check_alarms(),
            self._check_queue(),
        )
        if found := [*self._check_key()] or [*others]:
            return merge(found)
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
            if code == "404" or any(word in code for word in MISSING):
                return None
            if code == "403" or "AccessDenied" in code:
                self._denied.add(error.operation_name)
                return {}
            raise

    def _deleted(self, name: str, resource: str, *steps: str) -> CheckResult:
        """Return the fault that a resource was deleted, with the commands that create it."""
        properties = self._properties(resource)
        if steps and properties and _is_known(properties):
            return fail(f"the {name} was deleted", " && ".join(steps))
        # A deployment does not create a deleted resource of the stack again. An `undeploy` before
        # the deployment would make the secrets unreadable, because a new stack has a new key.
        command = self._command("cloudformation get-template", stack_name=self._stack)
        by_hand = f"create it by hand from {resource}, then the resources that refer to it"
        return fail(f"the {name} was deleted", f"{command}  # {by_hand}")

    def _command(self, command: str, **options: Any) -> str:
        """Return a command line of the AWS CLI in the stage's region."""
        texts = {
            name: value if isinstance(value, str) else json.dumps(value, default=str)
            for name, value in options.items()
        }
        words = [f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in texts.items()]
        return " ".join(["aws", command, *words, "--region", self._stage.region])

    def _compare(
        self, name: str, found: Any, deployed: dict[str, Any], command: str, request: dict[str, Any]
    ) -> Faults:
        """Yield a fault if fields differ from the template of the deployment.

        The fix adds the deployed values of the differing fields to `request`.
        """
        if wrong := [each for each in deployed if not _is_equal(found.get(each), deployed[each])]:
            right = {name: deployed[name] for name in wrong if deployed[name] is not None}
            differences = (
                f"{field} of {name} is {found.get(field)}, and was deployed as {deployed[field]}"
                for field in wrong
            )
            fix = self._command(command, cli_input_json=request | right)
            yield fail("; ".join(differences), fix)

    def _properties(self, resource: str) -> dict[str, Any]:
        """Return a resource's properties in the template, with the values of its references."""
        return dict(self._resolve(self._template.get(resource, {}).get("Properties", {})))

    def _resolve(self, value: Any) -> Any:
        """Replace references in a value of the template. An unknown reference remains."""
        if isinstance(value, list):
            return [self._resolve(each) for each in value]
        if not isinstance(value, dict):
            return value
        match list(value.items()):
            case [("Ref", name)] if name in self._ids:
                return self._ids[name]
            case [("Fn::GetAtt", [name, "Arn"])] if arn := self._arn(name):
                return arn
            case [("Fn::Join", [separator, parts])] if _is_known(known := self._resolve(parts)):
                return str(separator).join(map(str, known))
            case [("Fn::GetAtt", [name, "QueueName"])] if name in self._ids:
                return self._ids[name].rpartition("/")[2]
            case [("Fn::Sub", str(text))]:
                names = re.findall(r"\$\{([^}]+)\}", text)
                values = {
                    each: self._arn(each[:-4]) if each.endswith(".Arn") else self._ids.get(each)
                    for each in names
                }
                if all(values.values()):
                    return re.sub(r"\$\{([^}]+)\}", lambda match: str(values[match[1]]), text)
        return {name: self._resolve(each) for name, each in value.items()}

    def _arn(self, resource: str) -> str | None:
        """Return the ARN of a resource of the template, or None for an unknown type."""
        text = ARNS.get(self._template.get(resource, {}).get("Type", ""))
        if text is None or resource not in self._ids:
            return None
        return text.format(**self._arn_parts, id=self._ids[resource].rpartition("/")[2])

    def _resources(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield the properties of each resource of a type, if all their references are known."""
        for name, resource in self._template.items():
            properties = self._properties(name)
            if resource.get("Type") == kind and _is_known(properties):
                yield properties

    def _check_key(self) -> Faults:
        if (key := self._outputs.get("ServiceKeyArn")) is None:
            return
        name = "key of the secrets"
        described = self._find("kms", "describe_key", KeyId=key)
        if described is None:
            yield fail(f"the {name} was deleted, so no function can read them")
            return
        state = described.get("KeyMetadata", {}).get("KeyState")
        steps = {
            "Disabled": ["enable-key"],
            "PendingDeletion": ["cancel-key-deletion", "enable-key"],
        }
        if state in steps:
            fix = " && ".join(self._command(f"kms {step}", key_id=key) for step in steps[state])
            yield fail(f"the {name} is {state}, so no function can read them", fix)
        found = self._find("kms", "get_key_policy", KeyId=key, PolicyName="default") or {}
        for deployed in self._resources("AWS::KMS::Key"):
            if found and json.loads(found["Policy"]) != deployed["KeyPolicy"]:
                options = {"key_id": key, "policy_name": "default", "policy": deployed["KeyPolicy"]}
                fix = self._command("kms put-key-policy", **options)
                yield fail(f"the {name} has another policy than deployed", fix)

    def _check_role(self, name: str) -> Faults:
        resource, role = f"{name.title()}Role", f"{self._stack}-{self._stage.region}-{name}"
        properties, of_role = self._properties(resource), {"role_name": role}
        others = (each for each in self._resources("AWS::IAM::Policy") if role in each["Roles"])
        documents = {
            each["PolicyName"]: each["PolicyDocument"]
            for each in (*properties.get("Policies", ()), *others)
        }
        deployed = set().union(*map(_actions, documents.values()))
        trust = properties.get("AssumeRolePolicyDocument")
        found = self._find("iam", "get_role", RoleName=role)
        writes = {
            policy: self._command(
                "iam put-role-policy", **of_role, policy_name=policy, policy_document=document
            )
            for policy, document in documents.items()
        }
        if found is None:
            create = self._command("iam create-role", **of_role, assume_role_policy_document=trust)
            yield self._deleted(f"role {role}", resource, create, *writes.values())
            return
        present = found.get("Role", {})
        if "PermissionsBoundary" in present and "PermissionsBoundary" not in properties:
            remove = self._command("iam delete-role-permissions-boundary", **of_role)
            yield fail(f"a permissions boundary limits the rights of {role}", remove)
        if present and trust and _is_known(trust) and present["AssumeRolePolicyDocument"] != trust:
            fix = self._command("iam update-assume-role-policy", **of_role, policy_document=trust)
            yield fail(f"other services may use {role} than deployed", fix)
        for name, document in documents.items():
            policy = self._find("iam", "get_role_policy", RoleName=role, PolicyName=name)
            present = {} if policy is None else policy
            if policy != {} and _is_known(document) and present.get("PolicyDocument") != document:
                rights = ", ".join(sorted(_actions(document) - _actions(present)))
                text = f"{role} lacks {rights or 'exact rights'} of the deployed policy {name}"
                yield fail(text, writes[name])
        for command, other in self._policies(role):
            denied = _actions(other, "Deny")
            if any(fnmatch(a, b) or fnmatch(b, a) for a in deployed for b in denied):
                yield fail(f"a policy of {role} denies rights of the function", command)

    def _policies(self, role: str) -> Iterator[tuple[str, Any]]:
        """Yield each policy of a role, with the command that removes the policy's denials."""
        of_role = {"RoleName": role}
        names = self._find("iam", "list_role_policies", **of_role) or {}
        for name in names.get("PolicyNames", ()):
            document = self._find("iam", "get_role_policy", **of_role, PolicyName=name)
            policy = (document or {}).get("PolicyDocument", {})
            options = {"role_name": role, "policy_name": name}
            if allowed := [each for each in _statements(policy) if each["Effect"] == "Allow"]:
                rest = policy | {"Statement": allowed}
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

    def _check_functions(self) -> Faults:
        stage, secrets = self._stage, dict[str, str]()
        fix = f"minutehand deploy {stage.name} --secrets-only --secrets …  # a file of KEY=value"
        for name in NEEDED:
            parameter = parameter_name(stage.service, stage.name, name)
            stored = self._find("ssm", "get_parameter", Name=parameter) or {}
            if stored.get("Parameter", {}).get("Type", "SecureString") != "SecureString":
                # SSM cannot change the type of a parameter
                delete = self._command("ssm delete-parameter", name=parameter)
                yield fail(f"{parameter} is not encrypted", f"{delete} && {fix}")
            values = stage.read_secrets(name)
            if values is None:
                yield fail(f"{parameter} was deleted or is not JSON", fix)
            elif missing := missing_for(name, values):
                yield fail(f"{parameter} lacks {', '.join(missing)}", fix)
            elif other := [
                key for key in values if secrets.setdefault(key, values[key]) != values[key]
            ]:
                yield fail(
                    f"{parameter} and other functions have different {', '.join(other)}", fix
                )
            yield from self._check_function(
                f"{self._stack}-{name}", f"{name.title()}LambdaFunction"
            )

    def _check_function(self, function: str, resource: str) -> Faults:
        template, of_function = self._properties(resource), {"FunctionName": function}
        found = self._find("lambda", "get_function_configuration", **of_function)
        if found is None:
            request = {name: template[name] for name in template.keys() - NOT_IN_REQUEST}
            create = self._command("lambda create-function", cli_input_json=request)
            yield self._deleted(f"function {function}", resource, create)
        if not found:
            return
        reserved = {RESERVED: template.get(RESERVED)}
        present = self._find("lambda", "get_function_concurrency", **of_function) or reserved
        verb = "delete" if reserved[RESERVED] is None else "put"
        command = f"lambda {verb}-function-concurrency"
        yield from self._compare(function, present, reserved, command, of_function)
        found["Layers"] = [each["Arn"] for each in found.get("Layers", ())]
        deployed = {
            field: value
            for field, value in {**DEFAULTS, **template}.items()
            if field in found.keys() - OTHERS and _is_known(value)
        }
        command = "lambda update-function-configuration"
        yield from self._compare(function, found, deployed, command, of_function)
        variables = found.get("Environment", {}).get("Variables", {})
        values = template.get("Environment", {}).get("Variables", variables)
        # a value with an unknown reference stays as it is
        known = {
            key: value if isinstance(value, str) else variables[key]
            for key, value in values.items()
            if isinstance(value, str) or key in variables
        }
        if wrong := sorted(dict(known.items() ^ variables.items())):
            fix = self._command(
                command, cli_input_json={**of_function, "Environment": {"Variables": known}}
            )
            yield fail(f"{function} was deployed with another {', '.join(wrong)}", fix)
        code = template.get("Code", {})
        if "S3Key" in code and _is_known(code):
            bucket, key, digest = code["S3Bucket"], code["S3Key"], found["CodeSha256"]
            processors = template.get("Architectures", ["x86_64"])
            archive = self._find("s3", "head_object", Bucket=bucket, Key=key) or {}
            if archive.get("Metadata", {}).get("filesha256", digest) != digest or (
                found.get("Architectures", processors) != processors
            ):
                request = {**of_function, **code, "Architectures": processors}
                fix = self._command("lambda update-function-code", cli_input_json=request)
                problem = f"the code or the architecture of {function} differs from the deploy"
                yield fail(problem, fix)

    def _check_invocations(self) -> Faults:
        """Check the rights to call functions, and the retries of calls."""
        for right in self._resources("AWS::Lambda::Permission"):
            name = right["FunctionName"].rpartition(":")[2]
            policy = self._find("lambda", "get_policy", FunctionName=name)
            caller = right.get("SourceArn", right["Principal"])
            if policy != {} and caller not in (policy or {}).get("Policy", ""):
                request = {**right, "FunctionName": name, "StatementId": "api"}
                fix = self._command("lambda add-permission", cli_input_json=request)
                yield fail(f"{caller} may not invoke {name}", fix)
        for limits in self._resources("AWS::Lambda::EventInvokeConfig"):
            name = limits["FunctionName"]
            found = self._find("lambda", "get_function_event_invoke_config", FunctionName=name)
            if found != {}:
                deployed = {
                    key: limits[key] for key in limits.keys() - {"FunctionName", "Qualifier"}
                }
                command, request = "lambda put-function-event-invoke-config", {"FunctionName": name}
                yield from self._compare(name, found or {}, deployed, command, request | deployed)

    def _check_callers(self) -> Faults:
        """Check that not everyone may invoke a function, also by the function's URL."""
        for function in (f"{self._stack}-{name}" for name in NEEDED):
            policy = self._find("lambda", "get_policy", FunctionName=function) or {}
            for each in _statements(json.loads(policy.get("Policy", "{}"))):
                # conditions on the caller, such as its organization, begin with aws:
                is_limited = "aws:" in str(each.get("Condition")).lower()
                if each["Principal"] in ("*", {"AWS": "*"}) and not is_limited:
                    options = {"function_name": function, "statement_id": each["Sid"]}
                    fix = self._command("lambda remove-permission", **options)
                    yield fail(f"everyone may invoke {function}", fix)

    def _check_limits(self, stage: dict[str, Any]) -> Faults:
        """Check the API's address, limits and CORS, by the stage of the API in the template."""
        of_api = {"ApiId": stage["ApiId"]}
        of_stage = {**of_api, "StageName": stage["StageName"]}
        limits = {"DefaultRouteSettings": stage.get("DefaultRouteSettings", {})}
        template = {"DisableExecuteApiEndpoint": False, **self._properties("HttpApi")}
        rules = ("DisableExecuteApiEndpoint", "CorsConfiguration")
        for part, request, deployed in (
            ("api", of_api, {name: template[name] for name in rules if name in template}),
            ("stage", of_stage, limits),
        ):
            found = self._find("apigatewayv2", f"get_{part}", **request)
            if found is None and part == "stage":
                request |= {"AutoDeploy": True, **limits}
                create = self._command("apigatewayv2 create-stage", cli_input_json=request)
                yield fail("the stage of the API was deleted", create)
            if found:
                present = {"DisableExecuteApiEndpoint": False, **found}
                command = f"apigatewayv2 update-{part}"
                yield from self._compare("the API", present, deployed, command, request)

    def _check_api(self) -> Faults:
        """Check the API, its routes, and the functions that the API calls."""
        stage = self._properties("HttpApiStage")
        if isinstance(stage.get("ApiId"), str):
            yield from self._check_limits(stage)
        for route in self._resources("AWS::ApiGatewayV2::Route"):
            key, of_api = route["RouteKey"], {"ApiId": route["ApiId"]}
            response = self._find("apigatewayv2", "get_routes", **of_api, MaxResults="500") or {}
            if "Items" not in response:
                break
            found = next((each for each in response["Items"] if each["RouteKey"] == key), None)
            if found is None:
                fix = self._command("apigatewayv2 create-route", cli_input_json=route)
                yield fail(f"the route {key} was deleted", fix)
                continue
            deployed = {"AuthorizationType": "NONE", **route, "ApiId": None}
            request, command = {**of_api, "RouteId": found["RouteId"]}, "apigatewayv2 update-route"
            yield from self._compare(f"route {key}", found, deployed, command, request)
        integrations = self._resources("AWS::ApiGatewayV2::Integration")
        deployed_uris = {each["IntegrationUri"]: {"ApiId": each["ApiId"]} for each in integrations}
        for uri, of_api in deployed_uris.items():
            response = self._find("apigatewayv2", "get_integrations", **of_api, MaxResults="500")
            items = (response or {}).get("Items", ())
            ids = {each["IntegrationUri"]: each["IntegrationId"] for each in items}
            other = [ids[each] for each in ids if each not in deployed_uris]
            if uri not in ids and other:
                options = {"api_id": of_api["ApiId"], "integration_id": other[0]}
                options["integration_uri"] = uri
                fix = self._command("apigatewayv2 update-integration", **options)
                yield fail(f"the API does not call {uri}", fix)

    def _check_schedule(self) -> Faults:
        tick = f"{self._stack}-tick"
        template = self._properties("Tick")
        schedule = self._find("scheduler", "get_schedule", Name=tick)
        if schedule is None:
            create = self._command("scheduler create-schedule", cli_input_json=template)
            yield self._deleted(f"schedule {tick}", "Tick", create)
        if not schedule or not _is_known(template):
            return
        state = str(self._stage.values.get("tickState", "ENABLED"))
        deployed = {**dict.fromkeys(LIMITS), **template, "State": state}
        # send all fields, because an update resets each field that it omits
        request = {name: schedule[name] for name in schedule.keys() - {*RESPONSE_FIELDS, *LIMITS}}
        yield from self._compare(tick, schedule, deployed, "scheduler update-schedule", request)

    def _check_log(self) -> Faults:
        name, days = self._stack, self._properties("LogGroup").get("RetentionInDays")
        found = self._find("logs", "describe_log_groups", logGroupNamePrefix=name)
        present = {each["logGroupName"]: each for each in (found or {}).get("logGroups", ())}
        of_group, deployed = {"logGroupName": name}, {"retentionInDays": days}
        keep = "logs put-retention-policy"
        if found and name not in present:
            create = self._command("logs create-log-group", log_group_name=name)
            keep = self._command(keep, cli_input_json=of_group | deployed)
            yield self._deleted(f"log group {name}", "LogGroup", create, keep)
        elif found and days:
            yield from self._compare(name, present[name], deployed, keep, of_group)

    def _check_alarms(self) -> Faults:
        """Check that the alarms and the receivers of their mails are as deployed."""
        write, topic = "cloudwatch put-metric-alarm", self._properties("Alerts")
        if topic and (arn := self._ids.get("Alerts")):
            yield from self._check_topic(arn, topic)
        for alarm in self._resources("AWS::CloudWatch::Alarm"):
            name = alarm["AlarmName"]
            response = self._find("cloudwatch", "describe_alarms", AlarmNames=[name])
            if response and not response["MetricAlarms"]:
                create = self._command(write, cli_input_json=alarm)
                yield fail(f"the alarm {name} was deleted", create)
            for found in (response or {}).get("MetricAlarms", ()):
                deployed = {"ActionsEnabled": True, **alarm}
                yield from self._compare(name, found, deployed, write, deployed)

    def _check_topic(self, arn: str, topic: dict[str, Any]) -> Faults:
        """Check the topic of the alarms, and the receivers of its mails."""
        create = self._command("sns create-topic", name=topic["TopicName"])
        found = self._find("sns", "list_subscriptions_by_topic", TopicArn=arn)
        held = {
            each["Endpoint"]: each["SubscriptionArn"]
            for each in (found or {}).get("Subscriptions", ())
            if each["SubscriptionArn"] != "Deleted"  # AWS lists it for some days
        }
        steps = [create] if found is None else []
        for each in topic.get("Subscription", ()) if found != {} else ():
            subscription = held.get(each["Endpoint"])
            if subscription is None:
                options = {"topic_arn": arn, "protocol": each["Protocol"]}
                options["notification_endpoint"] = each["Endpoint"]
                steps.append(self._command("sns subscribe", **options))
            elif subscription != "PendingConfirmation":
                yield from self._check_filter(subscription)
        if steps:
            problem = f"the topic {topic['TopicName']} or its subscription was deleted"
            yield fail(f"{problem}, so no alarm sends a mail", " && ".join(steps))

    def _check_filter(self, arn: str) -> Faults:
        found = self._find("sns", "get_subscription_attributes", SubscriptionArn=arn) or {}
        if found.get("Attributes", {}).get("FilterPolicy", "{}") != "{}":
            options = {"subscription_arn": arn, "attribute_name": "FilterPolicy"}
            command = "sns set-subscription-attributes"
            fix = self._command(command, **options, attribute_value="{}")
            yield fail(f"the FilterPolicy of {arn} rejects mails of alarms", fix)

    def _check_queue(self) -> Faults:
        """Check the queue of failed invocations, and that it is empty."""
        if (url := self._outputs.get("FailuresUrl")) is None:
            return
        number, name = "ApproximateNumberOfMessages", f"{self._stack}-failures"
        names = {"QueueUrl": url, "AttributeNames": [number, *QUEUE_FIELDS]}
        template = {"Policy": "", **self._properties("Failures")}
        deployed = {field: str(template[field]) for field in QUEUE_FIELDS if field in template}
        if (found := self._find("sqs", "get_queue_attributes", **names)) is None:
            texts = {field: text for field, text in deployed.items() if text}
            create = self._command("sqs create-queue", queue_name=name, attributes=texts)
            yield self._deleted(f"queue {name}", "Failures", create)
            return
        present = found.get("Attributes", {})
        wrong = {key: text for key, text in deployed.items() if present.get(key, "") != text}
        if present and len(template) > 1 and wrong:
            repair = self._command("sqs set-queue-attributes", queue_url=url, attributes=wrong)
            yield fail(f"{', '.join(wrong)} of {name} differ from the deploy", repair)
        if count := int(present.get(number, 0)):
            purge = self._command("sqs purge-queue", queue_url=url)
            yield warn(
                f"{count} invocations of the worker failed, but no job is lost",
                f"{purge}  # `aws sqs receive-message` shows their reasons before",
            )


def _is_known(value: Any) -> bool:
    """Return whether no reference remains in a value of the template."""
    return not re.search(r'"(?:Fn::|Ref")', json.dumps(value, default=str))


def _is_equal(found: Any, deployed: Any) -> bool:
    """Compare values of AWS and of the template, which may write a number as text.

    AWS may return further fields, and texts in lower case and in another order.
    """
    match deployed:
        case dict():
            values = found or {}
            return all(_is_equal(values.get(name), deployed[name]) for name in deployed)
        case list():
            found, deployed = (
                sorted(str(each).lower() for each in texts or ()) for texts in (found, deployed)
            )
    try:
        return bool(found == deployed or float(found) == float(deployed))
    except (TypeError, ValueError):
        return False


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
