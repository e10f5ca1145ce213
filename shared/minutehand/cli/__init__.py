"""The `minutehand` command: the same verbs against the local stack and a hosted one."""
