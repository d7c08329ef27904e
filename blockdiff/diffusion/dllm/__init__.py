"""Published diffusion checkpoints: their canvas, their loops."""
