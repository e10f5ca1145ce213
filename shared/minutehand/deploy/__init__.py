"""Deployment to AWS: packages the functions and writes the files that serverless.yml includes."""
