# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from config dataclasses (spine_nav_common.parameters) and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from spine_nav_common.parameters import (
    Parameter,
    ParameterError,
    build,
    parameters,
    unknown_text,
)

Config = TypeVar("Config")


def overrides(values: Mapping[str, Any]) -> list[RosParameter]:
    """What a node takes as `parameter_overrides`, from dotted names."""
    return [
        RosParameter(name, value=list(value) if isinstance(value, tuple) else value)
        for name, value in values.items()
    ]


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    descriptor = ParameterDescriptor(
        description=parameter.doc + unit,
        read_only=not parameter.runtime,
        additional_constraints=", ".join(parameter.choices),
    )
    low, high = parameter.low, parameter.high
    if parameter.is_list or (low is None and high is None):
        return descriptor
    if parameter.scalar is float:
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=-math.inf if low is None else float(low),
                to_value=math.inf if high is None else float(high),
            )
        ]
    else:
        descriptor.integer_range = [
            IntegerRange(
                from_value=-(2**63) if low is None else int(low),
                to_value=2**63 - 1 if high is None else int(high),
            )
        ]
    return descriptor


def declare(node: Node, config: type) -> None:
    """Declare every field of `config`, with overrides checked by the same rules as files and CLI.

    Raises:
        ParameterError: an override is unknown, of the wrong type or out of range.
    """
    known = {p.name: p for p in parameters(config)}
    where = f"node {node.get_name()}"
    # ROS keeps silent about overrides that nobody declares; a mistyped safety limit must not pass.
    given = {name: p.value for name, p in node._parameter_overrides.items()}
    for name in given:
        if name not in known and not node.has_parameter(name):
            raise ParameterError(unknown_text(name, known, where))
    for name, parameter in known.items():
        value = parameter.checked(given.get(name, parameter.default), where)
        node.declare_parameter(
            name,
            list(value) if parameter.is_list else value,
            _descriptor(parameter),
            ignore_override=True,
        )
    node.add_on_set_parameters_callback(lambda changes: _judge(known, changes))


def _judge(known: Mapping[str, Parameter], changes: list[RosParameter]) -> SetParametersResult:
    for change in changes:
        parameter = known.get(change.name)
        if parameter is None:
            continue
        if not parameter.runtime:
            return SetParametersResult(
                successful=False,
                reason=f"'{change.name}' is fixed while the node lives; set it at start",
            )
        try:
            parameter.checked(change.value, "set_parameters")
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def frozen(node: Node, config: type[Config]) -> Config:
    """The effective parameters of a node as a frozen dataclass."""
    values = {p.name: node.get_parameter(p.name).value for p in parameters(config)}
    return build(config, values, f"node {node.get_name()}")
