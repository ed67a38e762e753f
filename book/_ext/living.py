"""The living page: a network that the reader prunes and trains in the browser."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from course_lib.teaching import playground


class Playground(SphinxDirective):
    """`{playground}`: the network, with all that it needs, in the page itself."""

    def run(self) -> list[nodes.Node]:
        """Write the page; it is made anew when one of its files has changed."""
        for path in sorted(playground.FILE.parent.glob("*.*")):
            self.env.note_dependency(str(path))
        return [nodes.raw("", playground.page(), format="html")]


def setup(app: Sphinx) -> dict:
    """Register the directive."""
    app.add_directive("playground", Playground)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
