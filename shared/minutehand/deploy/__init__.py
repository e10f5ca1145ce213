"""What is deployed to AWS: the packager of the functions and the parts serverless.yml includes."""
