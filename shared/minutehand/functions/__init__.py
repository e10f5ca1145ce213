"""The four Lambda functions: a folder each, with its routes, its app and its handler."""
