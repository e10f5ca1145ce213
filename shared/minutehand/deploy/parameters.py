"""Writes the secrets of each Lambda function to one SSM parameter per function.

`minutehand deploy` writes the secrets without CloudFormation, because CloudFormation cannot create
a SecureString and its templates must not contain secrets. A function reads its secrets by
minutehand/aws/secrets.py.
"""

import json
from collections.abc import Mapping
from typing import Any

from minutehand.deploy.apps import Needs

#: Secrets with which a worker can sign in to the Data API. The worker uses the first secret of this
#: list that is set.
WORKER_SIGN_IN = ("SUPABASE_WORKER_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_SECRET_KEY")

#: Required secrets of each Lambda function, by the function's name.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "jobs": (),
    "status": ("WORKER_SECRET_TOKEN",),
    "worker": ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"),
    "health": (),
}
#: Optional secrets of each Lambda function, by the function's name.
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "jobs": ("SUPABASE_JWT_SECRET",),
    "status": ("SUPABASE_JWT_SECRET", *WORKER_SIGN_IN),
    "worker": (*WORKER_SIGN_IN, "LANGUAGE_MODEL_KEY", "SPEECH_KEY"),
    "health": ("WORKER_SECRET_TOKEN", *WORKER_SIGN_IN),
}


def parameter_name(service: str, stage: str, function: str) -> str:
    """Return the name of a function's SSM parameter, which must equal the name in functions.yml."""
    return f"/{service}/{stage}/{function}"


def missing_for(function: str, values: Mapping[str, str]) -> list[str]:
    """List the required secrets of a function that are not in `values`."""
    missing = [name for name in NEEDED[function] if not values.get(name)]
    if function != "jobs" and not any(values.get(name) for name in WORKER_SIGN_IN):
        missing.append(" or ".join(WORKER_SIGN_IN))
    return missing


def write_parameters(
    ssm: Any,
    service: str,
    stage: str,
    values: Mapping[str, str],
    *,
    key_id: str | None,
    needs: Needs,
) -> None:
    """Write the SSM parameters of all Lambda functions.

    Lambda functions that are already running use the new secrets within minutes.

    Args:
        ssm: boto3's SSM client.
        values: Secrets by name. Secrets that no Lambda function may read are not written.
        needs: Requirements of the apps.
        key_id: KMS key that encrypts the SSM parameters. None selects the account's default key for
            SSM.
    """
    for function in NEEDED:
        key = {"KeyId": key_id} if key_id else {}
        names = (*NEEDED[function], *OPTIONAL[function], *needs.secrets(function))
        ssm.put_parameter(
            Name=parameter_name(service, stage, function),
            Value=json.dumps({name: values[name] for name in names if values.get(name)}),
            Type="SecureString",
            Overwrite=True,
            Description=f"Secrets of {service}-{stage}-{function}",
            **key,
        )
