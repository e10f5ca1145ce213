"""The four Lambda functions. Each function has a folder with its routes, app and handler."""
