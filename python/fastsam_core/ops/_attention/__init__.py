"""Multi-head attention over a token grid, global or in windows, with a position bias."""
