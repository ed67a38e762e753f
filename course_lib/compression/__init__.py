"""Compression other than pruning."""
