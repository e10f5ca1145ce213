"""Webhooks, which send job events in order, as signed POST requests, to a workspace's endpoints."""
