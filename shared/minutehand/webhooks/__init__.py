"""Webhooks: signed POST requests with job events, in order, to endpoints of workspaces."""
