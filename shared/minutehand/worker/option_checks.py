"""Validation of options by pydantic when code declares them, before the worker publishes them."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

#: A string that is not empty.
Name = Annotated[str, Field(min_length=1)]


def check_options(owner: str, kind: type, options: Mapping[str, Any]) -> None:
    """Reject options that `kind`, a dataclass or TypedDict, lacks or declares with another type.

    Raises:
        TypeError: The message names the owner and each wrong option.
    """
    try:
        _model(kind).model_validate(options)
    except ValidationError as error:
        errors = "; ".join(
            f"{details['loc'][0]}: {details['msg']}, got {details['input']!r}"
            for details in error.errors()
        )
        raise TypeError(f"{owner}: {errors}") from error


@cache
def _model(kind: type) -> type[BaseModel]:
    """Return a model with the annotations of `kind`. Omitted options are not checked."""
    fields: dict[str, Any] = {
        name: (hint, None) for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model(kind.__name__, __config__=strict, **fields)
