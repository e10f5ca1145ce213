"""Signed statements: canonical JSON, Ed25519 keys, chains of receipts, and their verification.

`jobs` signs what processors with `signed=True` return; apps sign statements of their own.
"""
