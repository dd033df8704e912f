# SPDX-License-Identifier: Apache-2.0
"""Topic names (docs/contracts.md, sections 2 and 6). Relative ones live under the nodes' namespace."""

COLOUR = "/camera/camera/color/image_raw"
COLOUR_INFO = "/camera/camera/color/camera_info"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
DEPTH_INFO = "/camera/camera/aligned_depth_to_color/camera_info"
OWN_DEPTH = "/camera/camera/depth/image_rect_raw"  # of a camera of its own, not aligned to colour
OWN_DEPTH_INFO = "/camera/camera/depth/camera_info"
LEFT, LEFT_INFO = "/stereo/left/image_rect", "/stereo/left/camera_info"
RIGHT, RIGHT_INFO = "/stereo/right/image_rect", "/stereo/right/camera_info"
SCREW_POSES = "screws/poses"
SCREW_MARKERS = "screws/markers"
SCREW_STATUS = "screws/status"
SCREW_LATENCY = "screws/latency"
SCREW_JOURNAL = "screws/journal"  # as JOURNAL, of the stereo tracker
ROD_PATH = "rod/path"
BENDING = "guidance/bending"
BENDING_STATUS = "guidance/bending/status"
CAMERA_CLOCK = "camera/clock"  # of a recording that the camera node plays
STATUS = "registration/status"
VERTEBRA_POSES = "registration/vertebra_poses"
LATENCY = "registration/latency"
JOURNAL = "registration/journal"  # what a session's record replays by
CHECK = "landmarks/status"  # the surgeon's check of a level
POINTER = "landmarks/touched"  # the tip of a tracked pointer, once for each touch
LABELS = "segmentation/labels"
TRAJECTORIES = "guidance/trajectories"
VERTEBRAE = "guidance/vertebrae"
OVERLAY = "overlay/image"
OVERLAY_COMPRESSED = "overlay/image/compressed"
SCREW_OVERLAY = "screws/overlay/image"
SCREW_OVERLAY_COMPRESSED = "screws/overlay/image/compressed"
OVERLAY_MARKERS = "overlay/markers"  # the same in space
OVERLAY_STROKES = "overlay/strokes"  # the same as lines in the picture
BULLS_EYE = "overlay/bulls_eye"  # the view along every planned trajectory
BULLS_EYE_COMPRESSED = "overlay/bulls_eye/compressed"
TOOL_POSE = "tool/pose"  # of a tracked tool or drill guide: origin at its tip, z to its handle
DISPLAY_EVENTS = "display/events"  # what the pages showed and what they asked, in JSON
PLAN_STATE = "plan/state"  # the live plan, and what is asked of the surgeon about it, in JSON
PLAN_PROPOSAL = "plan/proposal"  # somebody would plan a screw elsewhere, in JSON
PLAN_TRAJECTORIES = "planning/trajectories"  # where screws go by the newest poses
PLAN_SAFETY = (
    "planning/safety"  # of each of them: probability of a breach, allowed advance, or stop
)
HEALTH = "health"
HEARTBEAT = "heartbeat"
GONE = "supervisor/gone"  # the nodes that died or hang, and are not back yet
DEFAULT_NAMESPACE = "/spine"


def vertebra_frame(level: str, tf_prefix: str = "") -> str:
    """The frame of a tracked vertebra: that of its mesh file, in metres."""
    return f"{tf_prefix}vertebra_{level}"


def pose_topic(level: str) -> str:
    """The authority for one level's pose."""
    return f"registration/{level}/pose"


def rod_path_topic(side: str) -> str:
    """The rod of one side; `rod/path` is the one that is being bent."""
    return f"rod/{side}/path"
