"""Compression by other means than removing weights: fewer bits, shared weights."""
