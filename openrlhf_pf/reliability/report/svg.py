"""Matplotlib figures as SVG that is legible on a phone and follows the reader's light or dark setting.

A figure is drawn by matplotlib in the light colours of ``PALETTE``; in its SVG, each of them becomes a CSS variable of
that name, which the page, or the file itself, sets for light and for dark. Text stays text, in the reader's own font.
"""

import io
import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Name of a colour to its light and its dark value. Text reaches a contrast of 4.5, series of 3, on ``page`` and
#: ``card``; series can be distinguished with any colour vision (after Okabe and Ito).
PALETTE = {
    "page": ("#f6f6f3", "#131519"),
    "card": ("#ffffff", "#1c1f25"),
    "ink": ("#1b1d22", "#eceef2"),
    "muted": ("#585d68", "#a9afbb"),
    "rule": ("#d9dade", "#3a3f49"),
    "accent": ("#00619f", "#74bdf5"),
    "c0": ("#0069ab", "#62b4f2"),
    "c1": ("#c44e00", "#ff9b5c"),
    "c2": ("#00795b", "#45cfa2"),
    "c3": ("#a93f83", "#f093d0"),
    "c4": ("#8f6700", "#e6b53c"),
    "c5": ("#5a5fc7", "#a9adff"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
SERIES = [LIGHT[f"c{number}"] for number in range(6)]
MARKERS = ("o", "s", "^", "D", "v", "P")

#: Inches. A phone shows a figure of this width about 1.4 times as large as points are, so that 8.3 points are 11 px.
WIDTH, HEIGHT = 3.6, 2.7
FONT, SMALL_FONT = 9, 8.3
#: Characters of a legend's label that fit, by the number of columns.
LONGEST_IN_COLUMNS = {1: 44, 2: 19, 3: 11}
LONGEST = LONGEST_IN_COLUMNS[1]

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "openrlhf-pf",  # the same figure twice is the same file
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": SMALL_FONT,
    "ytick.labelsize": SMALL_FONT,
    "legend.fontsize": SMALL_FONT,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
}


def new_figure(height: float = HEIGHT, xlabel: str = "", ylabel: str = "") -> "tuple[Figure, Axes]":
    """Return an empty figure of the width of a phone; ``height`` in inches. Call it within ``STYLE``."""
    # Not pyplot: no display is opened and no figure is kept.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.subplots().set(xlabel=xlabel, ylabel=ylabel)
    return figure, figure.axes[0]


def add_legend(figure: "Figure") -> None:
    """Add a legend above the axes, in as many columns as its labels allow."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = [label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…" for label in labels]
    longest = max(map(len, labels))
    columns = next(n for n in (3, 2, 1) if longest <= LONGEST_IN_COLUMNS[n])
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def css_variables(dark: bool) -> str:
    """Return the palette as CSS declarations."""
    return " ".join(f"--{name}: {values[dark]};" for name, values in PALETTE.items())


def to_svg(figure: "Figure", name: str) -> tuple[str, str]:
    """Return the figure's ``viewBox`` and the contents of its ``<svg>``, with ids that begin with ``name``."""
    figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]*)"', text)[1]
    inside = re.search(r"</metadata>(.*)</svg>", text, re.DOTALL)[1]
    inside = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", inside, flags=re.DOTALL)
    inside = inside.replace("xlink:href", "href")
    inside = re.sub(r"font-family: [^;\"]*;? ?", "", inside)
    used = set(re.findall(r"#([\w.-]+)[\")]", inside))
    inside = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", inside)
    inside = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", inside)
    names = {light: f"var(--{key})" for key, light in LIGHT.items()}
    inside = re.sub(r"#[0-9a-f]{6}\b", lambda m: names.get(m[0], m[0]), inside)
    return box, re.sub(r"\s*\n\s*", "\n", inside).strip()


def write_inline(box: str, inside: str, alt: str) -> str:
    """Return the SVG for a page that sets the variables."""
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(alt)}">\n{inside}\n</svg>'


def write_alone(box: str, inside: str, title: str, alt: str) -> str:
    """Return the SVG as a file of its own."""
    _, _, width, height = box.split()
    return f"""<?xml version="1.0" encoding="utf-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{width}pt" height="{height}pt" role="img">
<title>{escape(title)}</title>
<desc>{escape(alt)}</desc>
<style>
svg {{ {css_variables(False)} background: var(--card); font-family: system-ui, sans-serif; stroke-linejoin: round; }}
@media (prefers-color-scheme: dark) {{ svg {{ {css_variables(True)} }} }}
</style>
{inside}
</svg>
"""
