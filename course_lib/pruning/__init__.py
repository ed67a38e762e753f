"""Pruning: score (``criteria``), allocate (``allocate``), apply (``masks``), then train."""
