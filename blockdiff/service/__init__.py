"""The engine as a process of its own that every editor window shares."""
