"""A handler whose import fails."""

from typing import Any

import module_that_is_not_in_the_zip  # type: ignore[import-not-found]


def handler(event: Any, context: Any) -> Any:
    return module_that_is_not_in_the_zip
