"""Multi-head attention over a token grid, global or in windows, with position biases."""
