"""Chat app. Turns complex requests into background work, which people control from the chat."""
