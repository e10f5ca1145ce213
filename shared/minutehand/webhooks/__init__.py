"""Webhooks: job events are posted to the endpoints workspaces subscribed, signed and in order."""
