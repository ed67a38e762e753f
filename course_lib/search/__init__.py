"""Search for smaller networks: ``subsets``, ``widths`` and ``joint``.

Which channels to remove as a set, how many channels each layer keeps, and widths and bits together.
"""
