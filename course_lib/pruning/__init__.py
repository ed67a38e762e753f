"""Pruning: score, allocate, apply (``criteria`` → ``rates`` → ``masks``), then train."""
