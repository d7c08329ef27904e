"""Noise, unmasking rules and the block loop."""
