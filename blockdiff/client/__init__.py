"""The handle on the engine service, for everything outside its process; never torch."""
