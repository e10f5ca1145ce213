"""A handler whose import fails."""

import module_that_is_not_in_the_zip


def handler(event, context):
    return module_that_is_not_in_the_zip
