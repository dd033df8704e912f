# SPDX-License-Identifier: Apache-2.0
"""The cameras' bench measures what it says: its RVL comes back, and a missed target is called so."""

from __future__ import annotations

import numpy as np

from spine_nav_bench.bench_cameras import cameras_record, depth_image, encode_rvl
from spine_nav_bench.results_cameras import CAMERAS_TARGETS, cameras_time_table
from spine_nav_common.core.rvl import decode_rvl


def test_its_rvl_comes_back():
    image = depth_image(64, 48, 1)
    image[0, 0] = 0
    np.testing.assert_array_equal(decode_rvl(np.frombuffer(encode_rvl(image), np.uint8)), image)


def test_a_short_run_gives_every_row_and_a_slow_one_misses():
    record = cameras_record(smoke=True)
    assert record["align_ms"]["count"] == 5
    assert record["librealsense_ms"] or record["librealsense_note"]
    assert len(cameras_time_table(record)) == 6
    slow = {"median": 99.0}
    for target in CAMERAS_TARGETS:
        assert target.read({**record, "align_ms": slow, "png_ms": slow})[1] is False
