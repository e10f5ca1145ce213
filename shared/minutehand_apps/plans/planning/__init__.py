"""A plan computed from a prompt: plain functions from text and a day to figures and charts."""
