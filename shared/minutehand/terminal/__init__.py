"""Building blocks for commands of `minutehand` and of apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minutehand.exports import lazy_exports

if TYPE_CHECKING:
    from minutehand.terminal.connection import (
        CommandFailed as CommandFailed,
        Connection as Connection,
    )
    from minutehand.terminal.inputs import (
        loads as loads,
        parse_object as parse_object,
        read_text as read_text,
    )
    from minutehand.terminal.options import (
        EnvFile as EnvFile,
        Json as Json,
        Token as Token,
        connected as connected,
        verb as verb,
        workspace_verb as workspace_verb,
    )
    from minutehand.terminal.output import Output as Output
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "connection": "CommandFailed Connection",
            "inputs": "loads parse_object read_text",
            "options": "EnvFile Json Token connected verb workspace_verb",
            "output": "Output",
        },
    )
