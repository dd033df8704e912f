# SPDX-License-Identifier: Apache-2.0
"""One virtual spine for all tests of this package; its grids are computed once."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import registration_support as support
from navigator_support import CONFIG, statuses

from spine_nav_common.core.types import Status
from spine_registration.core.estimator import Noise
from spine_registration.core.model import build_model
from spine_registration.core.navigator import Navigator

CASE = ("L1", "L2", "L3", "L4")


@pytest.fixture(scope="session")
def world():
    """Case of L1 to L5."""
    return support.make_world()


@pytest.fixture(scope="session")
def world_model(world):
    return build_model(world)


@pytest.fixture(scope="session")
def case(world):
    """L1 to L4, all exposed; L5 of the world is beyond it."""
    return support.part(world, CASE)


@pytest.fixture(scope="session")
def model(world_model):
    return support.part_model(world_model, CASE)


@pytest.fixture(scope="session")
def noise():
    return Noise(sigma_m=0.5e-3, tissue_scale_m=1e-3, correlation_area_m2=45e-6)


@pytest.fixture(scope="module")
def truth(world_model):
    """(L, 4, 4) poses of a spine that lies a little otherwise than in the CT."""
    rng = np.random.default_rng(2)
    return support.bent(world_model, support.rigid_pose(world_model), rng, 0.7, 1.0)


@pytest.fixture(scope="module")
def stage(world, world_model):
    return support.Stage(world, world_model)


@pytest.fixture(scope="module")
def frames(stage, truth):
    """Frames 1 to 24 of a still spine; index 0 is frame 1."""
    return [stage.frame(i, truth) for i in range(1, 25)]


@pytest.fixture
def oracle(stage):
    return support.Oracle(stage)


@pytest.fixture
def new_navigator(case, model, oracle):
    def make(config=CONFIG, exposed=None):
        own, grids = case, model
        if exposed:
            own = replace(case, exposed_levels=exposed)
            grids = support.part_model(model, tuple(case.meshes), exposed)
        return Navigator(own, oracle, config, support.ERRORS, grids)

    return make


@pytest.fixture
def tracking(new_navigator, frames):
    """A navigator that tracks all four levels after two frames."""
    navigator = new_navigator()
    for frame in frames[:2]:
        result = navigator.process(frame)
    assert statuses(result) == [Status.TRACKED] * 4, result
    return navigator
