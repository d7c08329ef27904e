"""Training: the corpus, the corruption, the loss and the loop."""
