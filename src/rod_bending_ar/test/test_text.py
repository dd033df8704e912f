# SPDX-License-Identifier: Apache-2.0
"""Words in a picture stay in their box."""

from __future__ import annotations

import numpy as np
import pytest

from rod_bending_ar.core.extras import Extras
from rod_bending_ar.core.lens import Lens
from rod_bending_ar.core.marks import Sheet, paint_words
from rod_bending_ar.core.text import fitted, text_size, wrapped
from spine_nav_common.core.types import Intrinsics

LONG = "left rod: no plan: the planned screw L3 is not among its 2 heads; show the missing heads"


@pytest.mark.parametrize("most", [1, 2, 5])
def test_lines_are_no_wider_and_no_more_than_asked_for(most: int) -> None:
    lines = wrapped(LONG, 11, 150.0, most)
    assert len(lines) <= most and all(text_size(line, 11)[0] <= 150 for line in lines)
    assert (" ".join(lines) == LONG) == (most == 5)
    assert lines[-1].endswith("…") == (most < 5)


def test_a_word_that_is_too_long_is_cut() -> None:
    assert all(text_size(t, 11)[0] <= 40 for t in wrapped("parallelepipeds here", 11, 40.0, 3))
    assert fitted("short", 11, 400.0) == "short"
    assert wrapped("", 11, 40.0, 3) == [""]


def test_a_long_note_leaves_the_left_half_to_the_levels() -> None:
    image = np.full((480, 640, 3), 200, np.uint8)
    k = Intrinsics(640, 480, 600.0, 600.0, 319.5, 239.5)
    sheet = Sheet(image, Lens(k), 1, 1)
    paint_words(sheet, Extras(notes=(LONG * 3,)), False)
    changed = np.flatnonzero((image != 200).any(axis=(0, 2)))
    assert changed.min() >= 0.5 * 640 and changed.max() > 600
