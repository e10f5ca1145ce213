"""The four Lambda functions, each in a folder with its routes, its app and its handler."""
