"""Thin AWS adapters: wake-up invoke, sealing under KMS, secrets from SSM.

boto3 is imported by the first call that needs it, never by importing this package, and not by what
each cold start asks.
"""
