"""What the chat does without a language model: exact answers, and work over a bundled corpus."""
