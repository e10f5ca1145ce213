"""Reads the secrets of a Lambda function from SSM Parameter Store, and never logs secrets.

rotation.py reads the secrets again every few minutes, because they may have changed.
"""

import json
from collections.abc import Mapping

from minutehand.aws.sigv4 import call, find_endpoint
from minutehand.config import ConfigurationError

_HEADERS = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameter"}


def read_secrets(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Read the secrets in the SSM parameter that SECRETS_PARAMETER names.

    If SECRETS_PARAMETER is not set, return no secrets.

    A CloudFormation template contains only the name of the SSM parameter, and never a secret.

    Raises:
        ConfigurationError: The value of the SSM parameter is not a JSON object of strings.
    """
    parameter = environ.get("SECRETS_PARAMETER")
    if not parameter:
        return {}
    response = call(
        "ssm",
        "/",
        json.dumps({"Name": parameter, "WithDecryption": True}).encode(),
        headers=_HEADERS,
        region=environ["AWS_REGION"],
        address=find_endpoint("ssm", environ["AWS_REGION"], environ),
        # two attempts of 2 s end before Lambda's timeout for the invocation, so that the function
        # continues with its previous secrets if SSM does not respond
        read_seconds=2.0,
        attempts=2,
    )
    return _parse_strings(parameter, json.loads(response)["Parameter"]["Value"])


def _parse_strings(parameter: str, text: str) -> Mapping[str, str]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(parameter, "must be JSON", '{"NAME":"value"}') from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ConfigurationError(parameter, "must be an object of strings", '{"NAME":"value"}')
    return values
