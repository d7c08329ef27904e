"""An index of the definitions in a workspace, and what of it goes into a prompt; never torch."""
