"""Reference apps. Each app is a folder, which can be deleted without a change of the platform."""
