"""Local code infilling and rewriting by block diffusion, with an exact KV cache."""

__version__ = "0.1.0"
