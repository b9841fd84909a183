"""Places for labels: beside their points, and nowhere that is taken."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from advpt.results.labels import Box, place

PAGE = Box(0.0, 0.0, 400.0, 300.0)
ONE = np.array([[200.0, 150.0]])
spots = st.tuples(st.floats(0, 400), st.floats(0, 300))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(spots, min_size=1, max_size=3), min_size=1, max_size=10), st.lists(spots, max_size=10))
def test_labels_cover_no_label_no_mark_and_stay_inside(points, others):
    marks = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in (*others, *itertools.chain.from_iterable(points))]
    placed = place([np.array(each) for each in points], [(50.0, 10.0)] * len(points), PAGE, marks)
    assert None not in placed, "there is room for ten"
    for box in placed:
        assert box.left >= 0 and box.bottom >= 0 and box.right <= 400 and box.top <= 300
        assert not any(box.covers(mark) for mark in marks)
    assert not any(one.covers(other) for one, other in itertools.combinations(placed, 2))


def test_a_label_stands_beside_its_point_and_goes_no_further_than_it_must():
    mark = Box(196, 146, 204, 154)
    (alone,) = place([ONE], [(40, 10)], PAGE, [mark])
    x, y = alone.nearest(200, 150)
    assert not alone.covers(mark) and np.hypot(x - 200, y - 150) < 12
    (at_its_other_point,) = place([np.array([[200.0, 150.0], [20.0, 20.0]])], [(40, 10)], PAGE, [Box(90, 60, 399, 299)])
    assert at_its_other_point.right < 90


def test_a_line_is_not_covered_where_there_is_room_beside_it():
    bar = Box(150, 149, 250, 151)
    (box,) = place([ONE], [(40, 10)], PAGE, [Box(196, 146, 204, 154)], [bar])
    assert not box.covers(bar)


def test_a_full_panel_has_no_place():
    assert place([ONE], [(40, 10)], PAGE, [PAGE]) == [None]
    assert place([ONE], [(500, 10)], PAGE, []) == [None]
