"""The command `minutehand` with the verbs of this project's apps."""

from minutehand.cli.__main__ import add_verbs_of_apps, app

add_verbs_of_apps()

__all__ = ["app"]
