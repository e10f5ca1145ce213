"""Reference apps. Each app is one folder, which can be deleted without changing the platform."""
