"""Every command, and what a terminal shows."""
