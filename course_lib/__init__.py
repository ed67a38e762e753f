"""The companion library of the pruning course.

Modules import only what stands above them in this list:

- ``seeds``, ``extras``, ``data``, ``models``, ``layers``, ``parametrized``, ``ensemble``, ``files``: the ground floor
- ``training`` and ``measure``: the training loop, and what a network costs
- ``pruning`` and ``compression``: the methods
- ``search``: which channels to remove, and how many
- ``experiments``: several treatments of the same seeds, compared
- ``teaching``, ``exercises`` and ``grading``: what a lesson page and an exercise need

Two plain types run through everything:

``Scores``
    ``dict[str, Tensor]``, parameter name -> one score per weight. A higher score means keep.
``Masks``
    ``dict[str, Tensor]``, parameter name -> one bool per weight. True means keep.

``sparsity`` is always the fraction removed.
"""

__version__ = "0.2.0"
