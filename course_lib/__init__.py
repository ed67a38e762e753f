"""The companion library of the pruning course.

Ground floor: ``data``, ``models``, ``training``, ``measure``. Above it the methods, ``pruning``, and
above those ``teaching`` (what a lesson page needs) and ``grading`` (what an exercise needs).
Imports point down only.

Two plain types run through everything:

``Scores``
    ``dict[str, Tensor]``, parameter name -> one score a weight. Higher means keep.
``Masks``
    ``dict[str, Tensor]``, parameter name -> one bool a weight. True means keep.

``sparsity`` is always the fraction removed.
"""

__version__ = "0.1.0"
