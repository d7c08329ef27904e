"""What the operating system is asked for, safely: child processes, private files, search paths."""
