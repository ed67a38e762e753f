"""Pruning: score, allocate, apply (``criteria`` → ``allocate`` → ``masks``), then train."""
