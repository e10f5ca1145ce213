"""The `minutehand` command, which works with the local stack and with a hosted one."""
