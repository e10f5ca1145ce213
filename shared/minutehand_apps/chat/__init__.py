"""Chat: conversations whose complex requests become background work, steered in the chat."""
