"""Chat app, which runs complex requests as background jobs that people control in the chat."""
