"""Reference apps, each in one folder that can be deleted without touching the platform."""
