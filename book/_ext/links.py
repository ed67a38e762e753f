"""Links to a place of the book, which Sphinx resolves."""

from docutils import nodes
from sphinx import addnodes


def to(env, kind: str, target: str, words: str | None = None) -> addnodes.pending_xref:
    """Return a link to a page ("doc"), a label ("ref") or a term ("term").

    Without words it reads as its target's title. A target that is not there is a warning.
    """
    return addnodes.pending_xref(
        "",
        nodes.inline("", words or target, classes=[kind]),
        refdomain="std",
        reftype=kind,
        refexplicit=words is not None,
        refwarn=True,
        reftarget=target,
        refdoc=env.docname,
    )
