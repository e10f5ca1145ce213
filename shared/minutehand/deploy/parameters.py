"""Which secrets which function may read: one SSM parameter per function, written by people's hands.

CloudFormation cannot make a SecureString, and its templates must not hold a secret; so these are
written beside it. Reading them at init is shared/minutehand/aws/secrets.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from minutehand.deploy.apps import Needs

#: How the worker signs in to the Data API: the first of these that is set is used.
WORKER_SIGN_IN = ("SUPABASE_WORKER_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_SECRET_KEY")

#: Per function: what it cannot do its work without, and what it takes when it is there.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "jobs": (),
    "status": ("WORKER_SECRET_TOKEN",),
    "worker": ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"),
    "health": (),
}
TAKEN: Mapping[str, tuple[str, ...]] = {
    "jobs": ("SUPABASE_JWT_SECRET", "SUPABASE_JWKS"),
    "status": ("SUPABASE_JWT_SECRET", "SUPABASE_JWKS", *WORKER_SIGN_IN),
    "worker": (*WORKER_SIGN_IN, "LANGUAGE_MODEL_KEY", "SPEECH_KEY"),
    "health": ("WORKER_SECRET_TOKEN", *WORKER_SIGN_IN),
}


class Ssm(Protocol):
    """The one call of boto3's SSM client that is used."""

    def put_parameter(self, **arguments: Any) -> Any:
        """Create or replace a parameter."""
        ...


def parameter_name(service: str, stage: str, function: str) -> str:
    """Where a function's secrets lie; functions.yml says the same."""
    return f"/{service}/{stage}/{function}"


def secrets_of(
    function: str, values: Mapping[str, str], needs: Needs | None = None
) -> dict[str, str]:
    """The part of `values` that `function` may read, the apps' own secrets among them."""
    of_apps = () if needs is None else needs.secrets(function)
    names = dict.fromkeys((*NEEDED[function], *TAKEN[function], *of_apps))
    return {name: values[name] for name in names if values.get(name)}


def missing_for(function: str, values: Mapping[str, str]) -> list[str]:
    """What `function` cannot work without and `values` lacks."""
    missing = [name for name in NEEDED[function] if not values.get(name)]
    if function != "jobs" and not any(values.get(name) for name in WORKER_SIGN_IN):
        missing.append(" or ".join(WORKER_SIGN_IN))
    return missing


def write_parameters(
    ssm: Ssm,
    service: str,
    stage: str,
    values: Mapping[str, str],
    *,
    key_id: str | None = None,
    needs: Needs | None = None,
) -> list[str]:
    """Write every function's parameter, return their names; running functions follow in minutes.

    Args:
        ssm: boto3's SSM client.
        service: The project's name.
        stage: Whose parameters.
        values: Secrets by name, more than needed is fine.
        needs: What the apps ask for beside it.
        key_id: The KMS key to encrypt with; the account's default for SSM when None.
    """
    written = []
    for function in NEEDED:
        name = parameter_name(service, stage, function)
        key = {"KeyId": key_id} if key_id else {}
        ssm.put_parameter(
            Name=name,
            Value=json.dumps(secrets_of(function, values, needs)),
            Type="SecureString",
            Overwrite=True,
            Description=f"Secrets of {service}-{stage}-{function}",
            **key,
        )
        written.append(name)
    return written
