"""Measuring what the product does, beside its floor and its rivals."""
