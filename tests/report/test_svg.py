from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from openvla.report.svg import nice_ceiling, svg


@pytest.mark.parametrize(
    ("value", "ceiling"), [(0.7, 0.8), (1, 1), (3, 4), (38, 40), (63.75, 80), (100, 100), (101, 200)]
)
def test_axes_end_at_round_numbers(value, ceiling):
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_a_picture_describes_itself_with_its_words_escaped():
    picture = ET.fromstring(svg(["<g/>"], 10, 'a < "b"'))
    assert picture.get("aria-label") == 'a < "b"'
    assert picture.get("viewBox") == "0 -2 760 12"
