# SPDX-License-Identifier: Apache-2.0
"""What is put on the pixels of a picture, compiled: strokes, text, darkened boxes and shaded bone. Of
a picture's time half went into thousands of small calls of NumPy and OpenCV."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.compiled import compiled

_FARTHEST_PX = 20_000.0  # nothing is drawn to a place beyond


@compiled
def _covered(depth: np.ndarray, x: int, y: int, nearest: float) -> bool:
    """Whether something stands before a pixel: most of five about it, since depth is ragged."""
    h, w = depth.shape
    votes = 0
    for k in range(5):
        i = min(max(y + (2 if k == 1 else -2 if k == 2 else 0), 0), h - 1)
        j = min(max(x + (2 if k == 3 else -2 if k == 4 else 0), 0), w - 1)
        if depth[i, j] < nearest:
            votes += 1
        if votes + 4 - k < 3:
            break
    return votes >= 3


@compiled
def _something_before(
    depth: np.ndarray, points: np.ndarray, reach: float, nearest: float, scale: int
) -> bool:
    """Whether anything is nearer than `nearest` in the box about points (N, 2), `reach` wider."""
    x0 = y0 = np.inf
    x1 = y1 = -np.inf
    for i in range(len(points)):
        if abs(points[i, 0]) + abs(points[i, 1]) < _FARTHEST_PX:
            x0, x1 = min(x0, points[i, 0]), max(x1, points[i, 0])
            y0, y1 = min(y0, points[i, 1]), max(y1, points[i, 1])
    if not x0 <= x1:
        return False
    h, w = depth.shape
    left, right = int(x0 - reach) // scale - 3, int(x1 + reach) // scale + 4
    top, bottom = int(y0 - reach) // scale - 3, int(y1 + reach) // scale + 4
    limit = np.float32(nearest)
    for y in range(max(top, 0), min(bottom, h)):
        count = 0
        for x in range(max(left, 0), min(right, w)):
            count += depth[y, x] < limit
        if count:
            return True
    return False


@compiled
def _segment(
    rows: np.ndarray, ax: float, ay: float, bx: float, by: float, half: float, begins: bool,
    nx: float, ny: float, red: int, green: int, blue: int, depth: np.ndarray, nearest: float,
    scale: int,
) -> None:  # fmt: skip
    """A piece of a line from a to b. begins: nothing is before it, so that it has a round end there.
    n: the way of the next piece; what lies behind b but before that one is a joint's outer side."""
    if not (abs(ax) + abs(ay) + abs(bx) + abs(by) < _FARTHEST_PX):  # NaN too
        return
    h, w = rows.shape[0], rows.shape[1] // 3
    dx, dy = bx - ax, by - ay
    square, reach = dx * dx + dy * dy, half + 0.5
    limit, whole = reach * reach, (half - 0.5) ** 2 if half > 0.5 else -1.0
    x0, x1 = (
        max(int(np.ceil(min(ax, bx) - reach)), 0),
        min(int(max(ax, bx) + reach), w - 1),
    )
    y0, y1 = (
        max(int(np.ceil(min(ay, by) - reach)), 0),
        min(int(max(ay, by) + reach), h - 1),
    )
    steep, goes_on = abs(dy) > 1e-6, nx != 0.0 or ny != 0.0
    per_square = 1.0 / square if square > 0.0 else 0.0
    lean = dx / dy if steep else 0.0
    wide = reach * np.sqrt(square) / abs(dy) if steep else 0.0
    for y in range(y0, y1 + 1):
        first, last = x0, x1
        py = y - ay
        if steep:
            middle = ax + py * lean
            first, last = (
                max(x0, int(np.ceil(middle - wide))),
                min(x1, int(middle + wide)),
            )
        for x in range(first, last + 1):
            px = x - ax
            along = px * dx + py * dy
            if along < 0.0 or square == 0.0:
                if not begins:
                    continue
                away = px * px + py * py
            elif along >= square:
                qx, qy = x - bx, y - by
                if goes_on and qx * nx + qy * ny >= 0.0:
                    continue
                away = qx * qx + qy * qy
            else:
                across = px * dy - py * dx
                away = across * across * per_square
            if away >= limit:
                continue
            if nearest > 0.0 and _covered(depth, x // scale, y // scale, nearest):
                continue
            # unsigned, for numba asks of every signed index whether it counts from the end
            i, k = np.uint64(y), np.uint64(3 * x)
            if away <= whole:
                rows[i, k], rows[i, k + np.uint64(1)], rows[i, k + np.uint64(2)] = (
                    red,
                    green,
                    blue,
                )
                continue
            share = np.float32(min(reach - np.sqrt(away), 1.0))
            for c in range(3):
                to = red if c == 0 else green if c == 1 else blue
                at = k + np.uint64(c)
                below = np.float32(rows[i, at])
                mixed = below + share * (np.float32(to) - below)
                rows[i, at] = np.uint8(mixed + np.float32(0.5))


@compiled
def draw_strokes(
    rows: np.ndarray, points: np.ndarray, ends: np.ndarray, halves: np.ndarray, rims: np.ndarray,
    colours: np.ndarray, nearest: np.ndarray, depth: np.ndarray, scale: int,
) -> None:  # fmt: skip
    """Lines with smooth edges on rows (H, 3·W) uint8 of a picture, black rims of all below the colours of all.

    points (K, 2): of all lines, pixel centres at integers; a piece to a NaN is not drawn. ends (S,):
    where each line's points end; one point is a dot. halves (S,): half widths. rims (S,): how far
    the rim stands out, 0 for none. colours (S, 3) uint8. nearest (S,): depth before which something
    covers the line, 0: nothing does. depth: metres, of every `scale`-th pixel of the image.
    """
    before = np.zeros(len(ends))  # as nearest, but 0 where nothing is before the whole line
    start = 0
    for s in range(len(ends)):
        reach = halves[s] + rims[s] + 1.0
        if nearest[s] > 0.0 and _something_before(
            depth, points[start : ends[s]], reach, nearest[s], scale
        ):
            before[s] = nearest[s]
        start = ends[s]
    for layer in range(2):
        start = 0
        for s in range(len(ends)):
            end = ends[s]
            if layer == 0 and rims[s] <= 0.0:
                start = end
                continue
            half = halves[s] + (rims[s] if layer == 0 else 0.0)
            ink = np.uint8(layer)  # 0: black
            red, green, blue = (
                ink * colours[s, 0],
                ink * colours[s, 1],
                ink * colours[s, 2],
            )
            closed = end - start > 2 and (
                points[start, 0] == points[end - 1, 0] and points[start, 1] == points[end - 1, 1]
            )
            for i in range(start, max(end - 1, start + 1)):
                j = min(i + 1, end - 1)
                k = j + 1
                nx = ny = 0.0
                if k >= end and closed:
                    k = start + 1
                if k < end and end - start > 2:
                    nx, ny = points[k, 0] - points[j, 0], points[k, 1] - points[j, 1]
                _segment(
                    rows, points[i, 0], points[i, 1], points[j, 0], points[j, 1], half,
                    i == start and not closed, nx, ny, red, green, blue, depth, before[s], scale,
                )  # fmt: skip
            start = end


@compiled
def blend_text(
    rows: np.ndarray, inked: np.ndarray, x: int, y: int, red: int, green: int, blue: int
) -> None:
    """Ink on rows (H, 3·W) uint8, clipped: inked (N, 3) row, column and 1 to 255 of each pixel of a
    text whose corner is at (x, y)."""
    h, w = rows.shape[0], rows.shape[1] // 3
    for n in range(len(inked)):
        i, j, a = y + inked[n, 0], x + inked[n, 1], inked[n, 2]
        if 0 <= i < h and 0 <= j < w:
            for c in range(3):
                to = red if c == 0 else green if c == 1 else blue
                at = np.uint64(3 * j + c)
                mixed = np.uint32(rows[np.uint64(i), at] * (255 - a) + to * a + 127)
                rows[np.uint64(i), at] = np.uint8(mixed // np.uint32(255))


@compiled
def darken(rows: np.ndarray, x0: int, y0: int, x1: int, y1: int, keep: float) -> None:
    """A box of rows (H, 3·W) uint8, within them, to `keep` of its brightness."""
    share = np.uint16(keep * 256.0)
    for y in range(y0, y1):
        row = rows[y, 3 * x0 : 3 * x1]
        for j in range(row.size):  # 16 bits wide, so that it is done for many at once
            row[j] = np.uint8((np.uint16(row[j]) * share) >> np.uint16(8))


@compiled
def tell_covered(
    nearness: np.ndarray, depth: np.ndarray, margin: float, inside: np.ndarray, covered: np.ndarray
) -> int:
    """255 in inside (h, w) where nearness, 1 / z, is positive, and in covered where moreover depth
    (h, w; or empty) is nearer by more than the margin; how many are."""
    count, measured, thick = 0, depth.size > 0, np.float32(margin)
    for i in range(nearness.shape[0]):
        for j in range(nearness.shape[1]):
            near = nearness[i, j]
            is_in, is_covered = near > 0.0, False
            if is_in and measured:
                is_covered = (depth[i, j] + thick) * near < np.float32(1.0)
            inside[i, j] = 255 if is_in else 0
            covered[i, j] = 255 if is_covered else 0
            count += is_covered
    return count


@compiled
def uncover(inside: np.ndarray, covered: np.ndarray, whole: np.ndarray) -> None:
    """Take out of inside (h, w) where the mean of what is covered is more than half of the mean of
    the whole."""
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            if 2 * int(covered[i, j]) > int(whole[i, j]):
                inside[i, j] = 0


@compiled
def shade_bone(
    rows: np.ndarray, inside: np.ndarray, shade: np.ndarray, red: int, green: int, blue: int
) -> None:
    """A translucent colour on rows (h, 3·w) uint8 where inside (h, w) is set, darker where shade
    (h, w) is low."""
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            if inside[i, j]:
                tone = np.float32(0.45) * (np.float32(0.25) + np.float32(0.75) * shade[i, j])
                for c in range(3):
                    to = np.float32(red if c == 0 else green if c == 1 else blue)
                    below = np.float32(0.55) * rows[i, 3 * j + c]
                    rows[i, 3 * j + c] = np.uint8(below + tone * to)


@compiled
def border(contour: np.ndarray, every: int) -> np.ndarray:
    """The smooth border (M + 1, 2), closed, of a contour (N, 2) of OpenCV's with all of its pixels.

    That contour runs through the middles of the outermost pixels, so the border lies half a pixel
    farther out, along the axis that the border crosses; five points are averaged (1 2 3 2 1).
    """
    n = len(contour)
    m = max((n + every - 1) // every, 1)
    out = np.empty((m + 1, 2))
    for k in range(m):
        i = k * every
        x = y = 0.0
        for o in range(-2, 3):
            p = (i + o) % n
            x += (3 - abs(o)) * contour[p, 0]
            y += (3 - abs(o)) * contour[p, 1]
        tx = float(contour[(i + 3) % n, 0] - contour[(i - 3) % n, 0])
        ty = float(contour[(i + 3) % n, 1] - contour[(i - 3) % n, 1])
        length = max(np.sqrt(tx * tx + ty * ty), 1e-9)
        tx, ty = tx / length, ty / length
        # outer contours run against the clock as they are seen
        step = 0.5 * max(abs(tx), abs(ty))
        out[k, 0], out[k, 1] = x / 9.0 - step * ty, y / 9.0 + step * tx
    out[m] = out[0]
    return out
