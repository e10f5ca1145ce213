"""Reference apps. Each is one folder, which can be deleted without changing the platform."""
