"""A picture in steps: one is shown at a time, chosen by radio buttons, without any script.

Where the style sheet is not applied (print, a plain viewer, a screen reader's reading mode) all
steps stand below each other, in order.
"""

import hashlib
import html
from collections.abc import Sequence

import matplotlib.pyplot as plt
from IPython.display import HTML
from matplotlib.figure import Figure

from course_lib.teaching import plots

_STYLE = """
#{id} fieldset {{ border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0.4rem; }}
#{id} legend {{ float: none; font-size: 1em; font-weight: 600; padding: 0; }}
#{id} label {{ border: 1px solid; border-radius: 0.4rem; padding: 0.4rem 0.7rem; cursor: pointer; }}
#{id} label:has(:checked) {{ font-weight: 600; outline: 1px solid; }}
#{id} svg {{ display: block; margin: 0 auto; max-width: 100%; height: auto; }}
@media screen {{ {hidden} }}
"""
_HIDDEN = (
    '#{id}:has(input[value="{n}"]:checked) > section:not([data-step="{n}"]) {{ display: none; }}'
)


def steps(title: str, stages: Sequence[tuple[str, str, Figure]]) -> HTML:
    """Show a process stage by stage.

    Args:
        title: what is stepped through, shown above the buttons.
        stages: (name, what happens in it, picture) in order, at least two. The words have to do
            without the picture: they are its alternative text. The figures are closed.

    Raises:
        ValueError: fewer than two stages, or an empty name or text.
    """
    if len(stages) < 2:
        raise ValueError(f"stages must hold at least two, got {len(stages)}")
    for number, (name, text, _) in enumerate(stages, start=1):
        if not name.strip() or not text.strip():
            raise ValueError(f"stage {number} must have a name and a text, got {name!r}, {text!r}")
    own = (
        "steps-"
        + hashlib.sha256(chr(0).join([title, *(s[0] for s in stages)]).encode()).hexdigest()[:10]
    )
    buttons, panels, hidden = [], [], []
    for n, (name, text, figure) in enumerate(stages, start=1):
        checked = " checked" if n == 1 else ""
        label = f"{n} · {html.escape(name)}"
        buttons.append(
            f'<label><input type="radio" name="{own}" value="{n}"{checked}> <span>{label}</span></label>'
        )
        picture = plots.svg(figure).replace(
            "<svg ", f'<svg role="img" aria-label="{html.escape(text)}" ', 1
        )
        plt.close(figure)
        panels.append(
            f'<section data-step="{n}"><p><strong>{label}.</strong> {html.escape(text)}</p>'
            f"{picture}</section>"
        )
        hidden.append(_HIDDEN.format(id=own, n=n))
    style = _STYLE.format(id=own, hidden=" ".join(hidden))
    return HTML(
        f'<div class="course-steps" id="{own}"><style>{style}</style>\n'
        f"<fieldset><legend>{html.escape(title)}</legend>\n"
        + "\n".join(buttons)
        + "\n</fieldset>\n"
        + "\n".join(panels)
        + "\n</div>"
    )
