# SPDX-License-Identifier: Apache-2.0
"""The quality-of-service profiles, named once. Nothing else in the project builds a QoSProfile."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(reliable: bool, latched: bool, depth: int) -> QoSProfile:
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
    )


SENSOR_IN = _profile(reliable=False, latched=False, depth=5)
SENSOR_OUT = _profile(reliable=True, latched=False, depth=5)
POSE = _profile(reliable=True, latched=False, depth=1)
# Every result counts for whoever records them: the same as POSE, but none is replaced.
RESULT = _profile(reliable=True, latched=False, depth=50)
LATCHED = _profile(reliable=True, latched=True, depth=1)
STATE = _profile(reliable=True, latched=True, depth=10)
# Late listeners (a recorder that was started again) get the last minute.
JOURNAL = _profile(reliable=True, latched=True, depth=1000)
TF_STATIC = _profile(reliable=True, latched=True, depth=100)  # as tf2 has it

IMAGE_RELIABILITIES = ("best_effort", "reliable")
IMAGE_RELIABILITY_DOC = (
    "how images are asked for; reliable: what is lost is sent again, later; the camera's driver must"
    " offer it"
)


def images_in(reliability: str) -> QoSProfile:
    """The profile to receive images with: one of IMAGE_RELIABILITIES."""
    return SENSOR_OUT if reliability == "reliable" else SENSOR_IN


def images_kept(reliability: str) -> QoSProfile:
    """The same for who wants every image and may be held up for two seconds."""
    return _profile(reliable=reliability == "reliable", latched=False, depth=32)


_NAMED = {
    "SENSOR_IN": SENSOR_IN,
    "SENSOR_OUT": SENSOR_OUT,
    "POSE": POSE,
    "RESULT": RESULT,
    "LATCHED": LATCHED,
    "STATE": STATE,
}


def qos_named(name: str) -> QoSProfile:
    """The profile of that name; an unknown name is a start-up error, never a quiet default."""
    if name not in _NAMED:
        raise ValueError(f"unknown QoS '{name}'; give one of {', '.join(_NAMED)}")
    return _NAMED[name]
