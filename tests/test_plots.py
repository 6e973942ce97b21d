"""Figures: whatever rows hold is drawn, or refused in one line, after the numbers were told."""

from __future__ import annotations

import pytest

from sims.plots import draw
from sims.results import ResultsError
from sims.scenario.measures import Estimate, Series
from sims.scenario.schema import PlotOptions, Reference


def series(*xs: object) -> list[Series]:
    return [Series("here", tuple((x, Estimate.of([1.0 + place, 2.0 + place])) for place, x in enumerate(xs)))]


@pytest.mark.parametrize("kind", ["line", "cdf"])
@pytest.mark.parametrize("drawn", [series(0, 1, 2.5), series(True), series(0.0), []], ids=range(4))
@pytest.mark.parametrize("log", [False, True])
def test_numbers_of_any_kind_and_none_at_all_make_a_picture(kind: str, drawn: list[Series], log: bool) -> None:
    reference = Reference(label="theirs", source="a paper", points=((1.0, 2.0), (2.0, 3.0)))
    plot = PlotOptions(name="p", kind=kind, rows="r", x="x", y="y", log_x=log, log_y=log, reference=(reference,))
    made = draw(plot, drawn, "a note")
    assert made["png"].startswith(b"\x89PNG") and b"a note" in made["svg"]
    assert draw(plot, drawn, "a note")["svg"] == made["svg"], "the same rows, the same picture"


def test_texts_have_their_places_but_none_on_a_logarithmic_axis_or_beside_published_figures() -> None:
    drawn = series("direct", "overlay")
    assert b"overlay" in draw(PlotOptions(name="p", rows="r", x="path", y="y"), drawn, "")["svg"]
    reference = Reference(label="theirs", source="a paper", points=((1.0, 2.0),))
    for plot in (
        PlotOptions(name="p", rows="r", x="path", y="y", log_x=True),
        PlotOptions(name="p", rows="r", x="path", y="y", reference=(reference,)),
    ):
        with pytest.raises(ResultsError, match="plot 'p': 'path' is a text in some rows"):
            draw(plot, drawn, "")
