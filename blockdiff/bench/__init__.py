"""Our speed beside that of rivals."""
