"""Vector pictures for a page: a small panel with axes, and matplotlib's figures made fit to stand in HTML.

Text is escaped here and nowhere else. Nothing has a ``style`` attribute, so that a content-security policy need not
allow any; colours are CSS variables, which follow the reader's light or dark mode.
"""

from __future__ import annotations

import colorsys
import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from ddsp_la2a.evaluation.style import STYLE

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"

NAMED_COLOURS = {
    "#000000": "ink",
    "#222222": "ink",
    "#555555": "muted",
    "#999999": "muted",
    "#dddddd": "grid",
    "#eeeeee": "shade",
    "#0b6e99": "c0",
    "#c2571a": "c1",
    "#5b8a3a": "c2",
    "#8a4f9e": "c3",
    "#b8860b": "c4",
}
"""Colours of :mod:`~ddsp_la2a.evaluation.style` and what the page calls them."""


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    Args:
        low, high: ends.
        label: what it shows, with the unit.
        log: logarithmic; both ends are positive then.
        zero: a logarithmic axis has a place for 0 before its low end.
    """

    low: float
    high: float
    label: str
    log: bool = False
    zero: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one; where 0 has a place, it is at 0."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        first = 0.12 if self.zero else 0.0
        if value <= 0.0:
            return 0.0
        along = math.log(value / self.low) / math.log(self.high / self.low)
        return first + (1.0 - first) * along

    def ticks(self) -> list[tuple[float, str]]:
        """Round values between the ends with their labels."""
        if not self.log:
            return [(value, f"{value:g}".replace("-", "−")) for value in _round_steps(self.low, self.high)]
        decades = range(math.ceil(math.log10(self.low * 0.999)), math.floor(math.log10(self.high * 1.001)) + 1)
        few = self.high / self.low < 300.0
        # A range within one decade would go without a label if only its powers of ten had one.
        digits = (1, 2, 3, 5, 7) if self.high / self.low < 8.0 else (1, 2, 5) if few else (1,)
        every = max(1, math.ceil(len(decades) / 6)) if not few else 1
        around = range(decades.start - 1, decades.stop + 1)
        values = [digit * 10.0**decade for decade in around if decade % every == 0 for digit in digits]
        found = [(value, in_short(value)) for value in values if self.low * 0.999 <= value <= self.high * 1.001]
        return [(0.0, "0"), *found] if self.zero else found


def log_axis(values: Sequence[float], label: str, *, zero: bool = False) -> Axis:
    """A logarithmic axis with room around the positive ones of the values."""
    positive = [value for value in values if 0.0 < value < math.inf] or [1.0]
    low, high = min(positive), max(positive)
    room = max((high / low) ** 0.06, 1.25)
    return Axis(low / room, high * room, label, log=True, zero=zero and min(values, default=1.0) <= 0.0)


def in_short(value: float) -> str:
    """A number as a tick says it: 0.05, 20, 5000, 20k, 2M."""
    for least, size, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least * 0.9999:
            return f"{value / size:.6g}{letter}"
    return f"{value:.6g}" if value >= 1e-4 else f"{value:.0e}".replace("-", "−")


def _round_steps(low: float, high: float) -> Iterator[float]:
    rough = (high - low) / 5.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * digit for digit in (1, 2, 2.5, 5, 10) if size * digit >= rough * 0.999)
    for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield round(number * step, 10)


@dataclass(frozen=True)
class Mark:
    """How a model looks in every chart: one of the page's colours, a shape and dashes."""

    colour: str
    shape: str
    dashes: str


_SHAPES = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "square": "M-3.6 -3.6h7.2v7.2h-7.2z",
    "triangle": "M0 -4.6L4.4 3.6H-4.4z",
    "diamond": "M0 -5L5 0L0 5L-5 0z",
    "down": "M0 4.6L4.4 -3.6H-4.4z",
    "star": "M0 -5L1.5 -1.5L5 0L1.5 1.5L0 5L-1.5 1.5L-5 0L-1.5 -1.5z",
}


class Panel:
    """One picture with two axes, drawn from the back to the front.

    Args:
        x, y: axes.
        about: what the picture shows, for those who don't see it.
        title: above the picture, empty for none.
        width, height: in the units of the picture; a page scales it.
        left, right: margins.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        about: str,
        title: str = "",
        *,
        width: float = 420.0,
        height: float = 290.0,
        left: float = 52.0,
        right: float = 12.0,
    ) -> None:
        self.x, self.y, self.about = x, y, about
        self.width, self.height = width, height
        self.box = (left, 30.0 if title else 12.0, width - right, height - (42.0 if x.label else 24.0))
        self.parts: list[str] = []
        self._axes(title)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the axes in the units of the picture."""
        left, top, right, bottom = self.box
        return left + self.x.share(x) * (right - left), bottom - self.y.share(y) * (bottom - top)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", turned: bool = False) -> None:
        """Text at a place in the units of the picture."""
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{turn}>{html.escape(text)}</text>'
        )

    def _axes(self, title: str) -> None:
        left, top, right, bottom = self.box
        for value, label in self.x.ticks():
            x, _ = self.at(value, self.y.low)
            self.parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
            self.text(x, bottom + 15.0, label, "tick", "middle")
        for value, label in self.y.ticks():
            _, y = self.at(self.x.low, value)
            self.parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
            self.text(left - 6.0, y + 4.0, label, "tick", "end")
        self.parts.append(f'<path class="axis" d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"/>')
        if self.x.label:
            self.text((left + right) / 2.0, self.height - 8.0, self.x.label, "label", "middle")
        self.text(13.0, (top + bottom) / 2.0, self.y.label, "label", "middle", turned=True)
        if title:
            self.text(left, 18.0, title, "title")

    def line(self, xs: Sequence[float], ys: Sequence[float], mark: Mark, kind: str = "line") -> None:
        """A line through points; it is broken where a value isn't finite."""
        steps, drawing = [], False
        for x, y in zip(xs, ys, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)):
                drawing = False
                continue
            across, down = self.at(x, y)
            steps.append(f"{'L' if drawing else 'M'}{across:.1f} {down:.1f}")
            drawing = True
        dashes = f' stroke-dasharray="{mark.dashes}"' if mark.dashes else ""
        self.parts.append(f'<path class="{kind}" stroke="var(--{mark.colour})"{dashes} d="{"".join(steps)}"/>')

    def point(self, x: float, y: float, mark: Mark, about: str, *, hollow: bool = False) -> None:
        """A mark at a point, with what it is for a pointer that rests on it."""
        across, down = self.at(x, y)
        fill = "var(--paper)" if hollow else f"var(--{mark.colour})"
        self.parts.append(
            f'<path class="mark" transform="translate({across:.1f} {down:.1f})" d="{_SHAPES[mark.shape]}" '
            f'fill="{fill}" stroke="var(--{mark.colour})"><title>{html.escape(about)}</title></path>'
        )

    def svg(self) -> str:
        """The picture as an element of a page."""
        return (
            f'<svg class="chart" role="img" aria-label="{html.escape(self.about)}" '
            f'viewBox="0 0 {self.width:g} {self.height:g}">{"".join(self.parts)}</svg>'
        )


def swatch(mark: Mark) -> str:
    """A piece of a line with its mark, for a legend."""
    dashes = f' stroke-dasharray="{mark.dashes}"' if mark.dashes else ""
    colour = f"var(--{mark.colour})"
    return (
        '<svg class="swatch" aria-hidden="true" viewBox="0 0 30 12">'
        f'<path class="line" stroke="{colour}"{dashes} d="M0 6H30"/>'
        f'<path class="mark" transform="translate(15 6)" d="{_SHAPES[mark.shape]}" fill="{colour}" stroke="{colour}"/>'
        "</svg>"
    )


def line_swatch(mark: Mark, kind: str) -> str:
    """A piece of a line alone, for the legend of lines without marks."""
    line = f'<path class="{kind}" stroke="var(--{mark.colour})" d="M0 6H30"/>'
    return f'<svg class="swatch" aria-hidden="true" viewBox="0 0 30 12">{line}</svg>'


def inlined(figure: Any, name: str, about: str, colours: dict[str, str]) -> str:
    """A matplotlib figure as an element of a page.

    Args:
        figure: to be drawn.
        name: goes before every id, so that several figures can stand in one page.
        about: what it shows, for those who don't see it.
        colours: every colour that is met is added, variable → value in light mode; those that the page has names for
            aren't.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _made_fit(element, name, colours)
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")  # in HTML an svg element needs no namespace
    for unwanted in ("width", "height", "version"):
        root.attrib.pop(unwanted, None)
    root.attrib |= {"class": "plot", "role": "img", "aria-label": about}
    return ElementTree.tostring(root, encoding="unicode")


def _made_fit(element: ElementTree.Element, name: str, colours: dict[str, str]) -> None:
    """Own ids, and attributes in place of ``style``, which a content-security policy would have to allow."""
    if "id" in element.attrib:
        element.attrib["id"] = f"{name}-{element.attrib['id']}"
    if link := element.attrib.pop(f"{{{_XLINK}}}href", ""):
        element.attrib["href"] = f"#{name}-{link.removeprefix('#')}"
    if "clip-path" in element.attrib:
        element.attrib["clip-path"] = element.attrib["clip-path"].replace("url(#", f"url(#{name}-")
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (text.strip() for text in declaration.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            element.attrib["font-size"] = size[1] if size else "9"
            if re.match(r"(bold|[6-9]00)\b", value):
                element.attrib["font-weight"] = "bold"
        elif key:
            element.attrib[key] = value
    for key in ("fill", "stroke"):
        value = element.attrib.get(key, "")
        if re.fullmatch(r"#[0-9a-f]{6}", value):
            variable = NAMED_COLOURS.get(value, f"k{value[1:]}")
            if value not in NAMED_COLOURS:
                colours[variable] = value
            element.attrib[key] = f"var(--{variable})"
    is_text = element.tag == f"{{{_SVG}}}text"
    if is_text and "fill" not in element.attrib:
        element.attrib["fill"] = "var(--ink)"


def in_the_dark(colour: str) -> str:
    """The colour that stands for ``#rrggbb`` on a dark page: the same hue, dark for light."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255.0 for at in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    turned = colorsys.hls_to_rgb(hue, 1.0 - 0.8 * lightness, 0.8 * saturation)
    return "#" + "".join(f"{round(255.0 * part):02x}" for part in turned)
