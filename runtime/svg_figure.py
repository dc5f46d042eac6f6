"""The frame of every chart: SVG without script, with a text that is spoken in its place and a caption."""

from __future__ import annotations

from collections.abc import Iterable

from bitlens.runtime.page import Html, escaped


def svg_figure(
    parts: Iterable[str], *, width: int, height: int, kind: str, caption: str, spoken: Iterable[str]
) -> Html:
    """Frame what is drawn.

    Parameters
    ----------
    parts : iterable of str
        SVG elements, what came from outside escaped.
    width, height : int
        Of the view box; the figure scales to the page.
    kind : str
        CSS class of the figure.
    caption : str
        Shown below, and the beginning of the text that stands for the chart.
    spoken : iterable of str
        The rest of that text, a part per line or row.
    """
    text = escaped(f"{caption}: {'; '.join(spoken)}")
    return Html(
        f'<figure class="{kind}"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{text}" '
        f'font-size="13" font-family="system-ui, sans-serif" fill="#1b1f24">\n{"".join(parts)}'
        f"</svg><figcaption>{escaped(caption)}</figcaption></figure>\n"
    )
