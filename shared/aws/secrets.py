"""Secrets from SSM Parameter Store: read once, cached, read again after a few minutes.

Nothing is written here, and no value is ever logged.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from datetime import timedelta
from typing import Any

from shared.aws.clients import client
from shared.aws.lean_ssm import can_sign, get_parameter
from shared.clock import Clock, SystemClock
from shared.config import ConfigurationError, Settings

MAX_AGE = timedelta(minutes=5)


class Secrets:
    """A SecureString that holds one JSON object, such as `/minutehand/prod/supabase`."""

    def __init__(
        self, settings: Settings, parameter: str, *, clock: Clock | None = None, ssm: Any = None
    ) -> None:
        self._settings = settings
        self._parameter = parameter
        self._clock = clock or SystemClock()
        self._ssm = ssm
        self._values: Mapping[str, str] | None = None
        self._read_at = 0.0

    async def get(self, name: str) -> str:
        """The value called `name`.

        Raises:
            ConfigurationError: The parameter does not hold it.
        """
        values = await self.all()
        if name not in values:
            raise ConfigurationError(name, f"is not in SSM parameter {self._parameter}", "…")
        return values[name]

    async def all(self) -> Mapping[str, str]:
        """Every value, at most `MAX_AGE` old."""
        age = self._clock.monotonic() - self._read_at
        if self._values is None or age > MAX_AGE.total_seconds():
            self._values = await asyncio.to_thread(self._read)
            self._read_at = self._clock.monotonic()
        return self._values

    def forget(self) -> None:
        """Read anew next time: after a 401 with a value that may have been rotated."""
        self._values = None

    def _read(self) -> Mapping[str, str]:
        ssm = self._ssm or client(self._settings, "ssm")
        return read_parameter(ssm, self._parameter)


def read_parameter(ssm: Any, parameter: str) -> Mapping[str, str]:
    """Decrypt one parameter and parse its JSON object of strings.

    Raises:
        ConfigurationError: It is no JSON object of strings.
    """
    text = ssm.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"]
    return parse_secrets(parameter, text)


def parse_secrets(parameter: str, text: str) -> Mapping[str, str]:
    """A parameter's value as the JSON object of strings it should be.

    Raises:
        ConfigurationError: It is something else; the value is not in the message.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(parameter, "is not JSON", '{"NAME":"value"}') from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ConfigurationError(parameter, "is no object of strings", '{"NAME":"value"}')
    return values


def fill_environment(environ: MutableMapping[str, str], *, ssm: Any = None) -> None:
    """Add the secrets named by SECRETS_PARAMETER to `environ`; what is set there already stays.

    For a handler's cold start, before `Settings.from_env`: the template holds only the
    parameter's name, so that no secret appears in CloudFormation or the console. Without `ssm`
    and with credentials in `environ`, as on Lambda, boto3 is not imported for it.
    """
    parameter = environ.get("SECRETS_PARAMETER")
    if not parameter:
        return
    if ssm is None and can_sign(environ):
        values = parse_secrets(parameter, get_parameter(parameter, environ))
    else:
        values = read_parameter(ssm or _boto3_ssm(environ), parameter)
    for name, value in values.items():
        environ.setdefault(name, value)


def _boto3_ssm(environ: Mapping[str, str]) -> Any:
    """A client with boto3's whole chain of credentials, for anywhere but Lambda."""
    import boto3

    return boto3.client(
        "ssm",
        region_name=environ.get("AWS_REGION"),
        endpoint_url=environ.get("AWS_ENDPOINT_URL") or None,
    )
