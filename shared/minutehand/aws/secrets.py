"""Secrets from SSM Parameter Store, beside the plain settings of a function's environment.

Nothing is written here, and no value is ever logged; reading them again is left to rotation.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from minutehand.aws.sigv4 import address_of, call
from minutehand.config import ConfigurationError

_HEADERS = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter"}


def read_secrets(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The secrets named by SECRETS_PARAMETER; none where it is unset.

    The template holds only the parameter's name, so that no secret appears in CloudFormation or
    the console.

    Raises:
        ConfigurationError: The parameter is not a JSON object of strings.
    """
    parameter = environ.get("SECRETS_PARAMETER")
    if not parameter:
        return {}
    answer = call(
        "ssm",
        "/",
        json.dumps({"Name": parameter, "WithDecryption": True}).encode(),
        headers=_HEADERS,
        region=environ["AWS_REGION"],
        address=address_of("ssm", environ["AWS_REGION"], environ),
        # less than an invocation in all, so that one whose SSM hangs keeps the old ones
        read_seconds=2.0,
        attempts=2,
    )
    return _strings(parameter, json.loads(answer)["Parameter"]["Value"])


def _strings(parameter: str, text: str) -> Mapping[str, str]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(parameter, "is not JSON", '{"NAME":"value"}') from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ConfigurationError(parameter, "must be an object of strings", '{"NAME":"value"}')
    return values
