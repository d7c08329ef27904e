"""From files of a model to a checkpoint in memory."""
