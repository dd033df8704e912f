# SPDX-License-Identifier: Apache-2.0
"""Two networks' opinions become one probability; a file that is none is refused."""

import json

import numpy as np
import pytest

from stereo_screw_tracker.core.confidence import (
    ConfidenceModel,
    joint_confidence,
    load_confidence_model,
    logit,
)

EVEN = ConfidenceModel(0.0, 1.0, 1.0)


def test_the_shipped_numbers_load():
    model = load_confidence_model()
    assert model.refiner > 0.0


def test_more_of_either_opinion_is_more():
    low = joint_confidence(EVEN, 0.6, 0.6)
    assert low < joint_confidence(EVEN, 0.8, 0.6)
    assert low < joint_confidence(EVEN, 0.6, 0.8)
    assert joint_confidence(EVEN, 0.9, 0.1) == pytest.approx(0.5)


def test_a_sure_answer_stays_finite_and_below_one():
    assert 0.5 < joint_confidence(EVEN, 1.0, 1.0) < 1.0
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()


def test_a_network_without_weight_says_nothing():
    alone = ConfidenceModel(0.0, 1.0, 0.0)
    assert joint_confidence(alone, 0.7, 0.01) == pytest.approx(0.7)


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        json.dumps({"offset": 0.0, "refiner": 1.0}),
        json.dumps({"offset": 0.0, "refiner": -1.0, "finder": 1.0}),
        json.dumps({"offset": float("nan"), "refiner": 1.0, "finder": 1.0}),
        json.dumps({"offset": "high", "refiner": 1.0, "finder": 1.0}),
    ],
)
def test_a_damaged_file_is_refused_with_the_remedy(tmp_path, content):
    file = tmp_path / "confidence.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="stereo_fit_confidence"):
        load_confidence_model(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stereo_fit_confidence"):
        load_confidence_model(tmp_path / "none.json")
