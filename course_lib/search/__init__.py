"""Search: which channels to remove as a set (``subsets``), and how many of each layer (``widths``)."""
