"""The `minutehand` command, for the local stack and for hosted stacks."""
