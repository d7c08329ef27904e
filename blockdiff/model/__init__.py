"""The decoder stack, its cache, its adapter and its files."""
