"""Secrets from SSM Parameter Store, beside the plain settings of a function's environment.

Nothing is written here, and no value is ever logged; reading them again is left to rotation.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from minutehand.aws.clients import bounded_client
from minutehand.config import ConfigurationError


def read_parameter(ssm: Any, parameter: str) -> Mapping[str, str]:
    """Decrypt one parameter and parse its JSON object of strings.

    Raises:
        ConfigurationError: It is not a JSON object of strings.
    """
    text = ssm.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"]
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(parameter, "is not JSON", '{"NAME":"value"}') from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ConfigurationError(parameter, "must be an object of strings", '{"NAME":"value"}')
    return values


def read_secrets(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The secrets named by SECRETS_PARAMETER; none where it is unset.

    The template holds only the parameter's name, so that no secret appears in CloudFormation or
    the console.
    """
    parameter = environ.get("SECRETS_PARAMETER")
    if not parameter:
        return {}
    region, endpoint = environ.get("AWS_REGION"), environ.get("AWS_ENDPOINT_URL") or None
    # less than an invocation in all, so that one whose SSM hangs keeps the old ones
    ssm = bounded_client("ssm", region, endpoint, 1, 2, attempts=2)
    return read_parameter(ssm, parameter)
