"""What only a GPU uses: recorded graphs, weights of 8 bits."""
