"""The greetings app."""
