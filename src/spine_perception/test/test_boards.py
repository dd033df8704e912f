# SPDX-License-Identifier: Apache-2.0
"""Every kind of board is found where it is, and what is wrong with an image is named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError
from spine_perception.core.boards import BoardFinder, board_spec

PX = 30  # of a square


def drawn(text):
    """(H, W) uint8 flat on the paper, and where the spec's points are on it, pixels."""
    spec = board_spec(text)
    if text.startswith("charuco"):
        size = (spec.columns * PX, spec.rows * PX)
        image = spec.board.generateImage(size, marginSize=0)
        points = spec.corners_m[:, :2] / spec.square_m * PX
    elif text.startswith("chessboard"):
        cells = np.indices((spec.rows + 1, spec.columns + 1)).sum(axis=0) % 2
        image = np.kron(cells, np.ones((PX, PX))) * 255
        points = (spec.corners_m[:, :2] / spec.square_m + 1) * PX
    else:
        points = (spec.corners_m[:, :2] / spec.square_m + 1) * PX
        image = np.full((*(np.ceil(points.max(axis=0)).astype(int)[::-1] + PX),), 255, np.uint8)
        for x, y in points:
            cv2.circle(
                image, (round(x * 16), round(y * 16)), round(16 * PX / 4), 0, -1, cv2.LINE_AA, 4
            )
        return np.pad(image, PX, constant_values=255), points + PX
    return np.pad(image.astype(np.uint8), PX, constant_values=255), points - 0.5 + PX


def shown(text, turn_deg=0.0):
    """An image (480, 640) of it, seen aslant, and its points there."""
    image, points = drawn(text)
    h, w = image.shape
    corners = np.float32([[0, 0], [w, 0], [w, h], [0, h]])
    at = np.float32([[80, 60], [560, 90], [540, 410], [100, 430]])
    H = cv2.getPerspectiveTransform(corners, at)
    a = np.radians(turn_deg)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    move = np.array([[1, 0, 320.0], [0, 1, 240.0], [0, 0, 1]])
    H = move @ turn @ np.linalg.inv(move) @ H
    found = cv2.warpPerspective(image, H, (640, 480), flags=cv2.INTER_AREA, borderValue=90)
    return cv2.GaussianBlur(found, (0, 0), 0.6), cv2.perspectiveTransform(
        points.reshape(-1, 1, 2).astype(float), H
    ).reshape(-1, 2)


BOARDS = (
    "charuco:10x7:24:17:DICT_5X5_100", "chessboard:9x6:25", "circles:7x5:20", "acircles:4x11:20",
)  # fmt: skip


@pytest.mark.parametrize("text", BOARDS)
def test_points_are_found_where_they_are(text):
    image, points = shown(text)
    found = BoardFinder(board_spec(text)).find(image)
    assert not isinstance(found, Rejected), found
    apart = np.linalg.norm(found.corners_px[:, None] - points, axis=2).min(axis=1)
    assert np.median(apart) < (0.3 if text.startswith("charuco") else 0.15), np.median(apart)
    H, _ = cv2.findHomography(found.board_m[:, :2], found.corners_px)
    seen = cv2.perspectiveTransform(found.board_m[:, None, :2], H).reshape(-1, 2)
    assert np.linalg.norm(seen - found.corners_px, axis=1).max() < 0.5  # each by its own place


@pytest.mark.parametrize("text", BOARDS)
def test_a_blurred_image_is_refused(text):
    image, _ = shown(text)
    found = BoardFinder(board_spec(text)).find(cv2.GaussianBlur(image, (0, 0), 5.0))
    assert isinstance(found, Rejected)


def test_a_mirrored_board_says_so():
    image, _ = shown(BOARDS[0])
    found = BoardFinder(board_spec(BOARDS[0])).find(np.ascontiguousarray(image[:, ::-1]))
    assert isinstance(found, Rejected) and "mirrored" in found.reason


def test_markers_of_another_size_are_told():
    image, _ = shown(BOARDS[0])
    found = BoardFinder(board_spec("charuco:10x7:24:19.2:DICT_5X5_100")).find(image)
    assert isinstance(found, Rejected) and "measure both" in found.reason


def test_another_count_of_corners_is_told():
    image, _ = shown("chessboard:9x6:25")
    found = BoardFinder(board_spec("chessboard:10x6:25")).find(image)
    assert isinstance(found, Rejected) and "count its inner corners" in found.reason


def test_the_eyes_of_a_pair_name_their_corners_alike():
    """A board that looks alike half turned, seen with the camera on its side and a little more."""
    text = "chessboard:9x7:25"
    finder = BoardFinder(board_spec(text))
    for turn in (84.0, 88.0, 92.0, 96.0):
        left, right = finder.find_pair(shown(text, turn)[0], shown(text, turn + 3.0)[0])
        assert not isinstance(left, Rejected) and not isinstance(right, Rejected)
        assert np.linalg.norm(left.corners_px - right.corners_px, axis=1).max() < 30.0


@pytest.mark.parametrize(
    "text", ["chessboard:9x6", "chessboard:6x6:25", "circles:9x6:0", "chessboard:9x6:25:3"]
)
def test_a_grid_that_is_none_says_how_to_write_it(text):
    with pytest.raises(ParameterError, match="chessboard:COLSxROWS"):
        board_spec(text)
