# SPDX-License-Identifier: Apache-2.0
"""Refusals of the rod planner."""

from spine_nav_common.core.errors import InputError


class RodError(InputError):
    """Screws, rod or bender allow no plan; nothing was planned by half."""
