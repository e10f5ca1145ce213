"""Deployment to AWS: the packager of the functions, and the files that serverless.yml includes."""
