"""Deployment to AWS, with the packager of the functions and the files for serverless.yml."""
