"""The engine: the only owner of a model."""
