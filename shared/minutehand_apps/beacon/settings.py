"""Reads the providers with their regions from BEACON_PROVIDERS, which is a JSON list."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from minutehand.config import ConfigurationError, read_text
from minutehand_apps.beacon.models import ShortText

VARIABLE = "BEACON_PROVIDERS"
EXAMPLE = '[{"name": "acme", "url": "https://eu.acme.example", "regions": ["eu-west"]}]'
#: Entry in a provider's regions that matches every region.
ANY_REGION = "*"


class Provider(BaseModel):
    """A provider, which is an HTTP server that answers questions in some regions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShortText
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^ ]*[^ /]$")]
    regions: tuple[str, ...] = Field(min_length=1)
    #: Bearer token for calls of the provider. Without a token, calls contain no `Authorization`
    #: header.
    token: str | None = Field(default=None, repr=False)


# an error message must not contain the value, because the value contains tokens
_PROVIDERS = TypeAdapter(tuple[Provider, ...], config=ConfigDict(hide_input_in_errors=True))


def read_providers(environ: Mapping[str, str]) -> tuple[Provider, ...]:
    """Read the providers in `BEACON_PROVIDERS`. If the variable is unset, return no providers.

    Raises:
        ConfigurationError: The value is not a list of providers, or two providers have one name.
    """
    try:
        providers = _PROVIDERS.validate_json(read_text(environ, VARIABLE) or "[]")
    except ValueError as error:
        problem = f"must be a list of providers: {error}"
        raise ConfigurationError(VARIABLE, problem, EXAMPLE) from error
    if len({provider.name for provider in providers}) < len(providers):
        raise ConfigurationError(VARIABLE, "must give each provider a different name", EXAMPLE)
    return providers


def serving(providers: Iterable[Provider], region: str) -> list[Provider]:
    """Return the providers that serve a region. Providers that name the region come first."""
    matching = [each for each in providers if {region, ANY_REGION} & set(each.regions)]
    return sorted(matching, key=lambda provider: region not in provider.regions)
