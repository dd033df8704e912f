# SPDX-License-Identifier: Apache-2.0
"""The page's colours told apart by people with colour vision deficiencies, and its files' hashes."""

from __future__ import annotations

import hashlib
import re
from itertools import combinations

import cv2
import numpy as np
import pytest

from spine_nav_display.server import STATIC

# Machado, Oliveira, Fernandes 2009, severity 1.0: linear RGB to linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
STATES = ("good", "warn", "bad", "info")
LEAST_DELTA_E = 20.0  # CIE76; 2.3 is just noticeable side by side


def colours() -> dict[str, np.ndarray]:
    css = (STATIC / "style.css").read_text(encoding="utf-8")
    found = dict(re.findall(r"--(\w+): #([0-9a-f]{6});", css))
    return {k: np.array([int(v[i : i + 2], 16) for i in (0, 2, 4)]) / 255 for k, v in found.items()}


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(rgb: np.ndarray, deficiency: str) -> np.ndarray:
    """CIELAB of a colour as it is seen with a deficiency."""
    light = np.clip(np.asarray(DEFICIENCIES[deficiency]) @ linear(rgb), 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(coded.astype(np.float32).reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0]


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("pair", [*combinations(STATES, 2), ("left", "right")], ids="-".join)
def test_states_and_sides_are_told_apart(deficiency: str, pair: tuple[str, str]) -> None:
    a, b = (seen(colours()[name], deficiency) for name in pair)
    assert np.linalg.norm(a - b) > LEAST_DELTA_E


@pytest.mark.parametrize("name", ["text", "dim", *STATES])
def test_words_stand_out_from_the_background(name: str) -> None:
    def luminance(rgb: np.ndarray) -> float:
        return float(linear(rgb) @ [0.2126, 0.7152, 0.0722])

    front, back = luminance(colours()[name]), luminance(colours()["room"])
    assert (front + 0.05) / (back + 0.05) > 6.0  # WCAG asks for 4.5


def test_every_state_has_a_shape_of_its_own() -> None:
    """Rules of `.sign` per state: no two states of different meaning share a shape."""
    css = re.sub(
        r"/\*.*?\*/", "", (STATIC / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    shapes: dict[str, str] = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*clip-path[^{}]*)\}", css):
        for state in re.findall(r"\.state-(\w+) \.sign", selectors):
            shapes[state] = re.search(r"clip-path: ([^;]+);", body)[1]
    for group in (("ready", "degraded", "unsafe", "failed"), ("tracked", "occluded", "lost", "rejected", "searching")):  # fmt: skip
        assert len({shapes[state] for state in group}) == len(group)


def test_the_vendored_files_are_those_that_are_named() -> None:
    table = (STATIC / "vendor" / "SOURCE.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(\S+)` .*`([0-9a-f]{64})` \|$", table, re.MULTILINE))
    there = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (STATIC / "vendor").glob("*.js")
    }
    assert named == there and there


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    for path in (p for p in STATIC.iterdir() if p.suffix in (".html", ".css", ".js")):
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text()), path.name
