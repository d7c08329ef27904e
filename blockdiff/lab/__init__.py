"""Small models of every family of text diffusion, trained and measured side by side."""
