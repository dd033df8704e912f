# SPDX-License-Identifier: Apache-2.0
"""The one parameter mechanism: frozen dataclasses rule over the command line, YAML and ROS.

A parameter is a dataclass field; its `metadata` may hold `doc`, `unit`, `low`, `high`, `choices`
and `runtime` (may change while running). A nested dataclass is a prefix: `navigator.level_margin`.
YAML files have the form of a ROS 2 parameters file, so that `ros2 run --params-file` and
`spinenav live --config` read the same text.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar("Config")
Value = bool | int | float | str | tuple
_SCALARS = (bool, int, float, str)
_WILDCARD = "/**"


class ParameterError(ValueError):
    """A parameter that cannot be used: says where, which and the remedy."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: dotted name, scalar type, whether it is a list of that type, and its limits."""

    name: str
    scalar: type
    is_list: bool
    default: Value
    doc: str = ""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    runtime: bool = False

    @property
    def type_name(self) -> str:
        """The type as a user reads it."""
        return f"list of {self.scalar.__name__}" if self.is_list else self.scalar.__name__

    def checked(self, value: Any, where: str) -> Value:
        """`value` in the parameter's type, or ParameterError. An int may stand for a float."""
        if not self.is_list:
            return self._scalar(value, where)
        if not isinstance(value, (list, tuple)) and not hasattr(value, "tolist"):
            raise self._error(value, where)
        return tuple(self._scalar(item, where) for item in value)

    def _scalar(self, value: Any, where: str) -> Value:
        if self.scalar is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.scalar:
            raise self._error(value, where)
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{where}: '{self.name}' is {value}; give a finite number")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.low is not None and value < self.low:
                raise ParameterError(
                    f"{where}: '{self.name}' is {value}; give at least {self.low:g} {self.unit}".rstrip()
                )
            if self.high is not None and value > self.high:
                raise ParameterError(
                    f"{where}: '{self.name}' is {value}; give at most {self.high:g} {self.unit}".rstrip()
                )
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"{where}: '{self.name}' is '{value}'; give one of {', '.join(self.choices)}"
            )
        return typing.cast("Value", value)

    def _error(self, value: Any, where: str) -> ParameterError:
        return ParameterError(
            f"{where}: '{self.name}' is {value!r} ({type(value).__name__}); give a {self.type_name}"
        )


def param(
    default: Value,
    doc: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    runtime: bool = False,
) -> Any:
    """A dataclass field with the metadata that this module reads."""
    metadata = {"doc": doc, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata={**metadata, "runtime": runtime})


def parameters(config: type, prefix: str = "") -> tuple[Parameter, ...]:
    """The parameters of a config dataclass, nested ones with their prefix, in order of the fields.

    Raises TypeError for a field that ROS cannot carry (a fault of the programmer, not of the user).
    """
    hints = typing.get_type_hints(config)
    found: list[Parameter] = []
    for field in dataclasses.fields(config):
        hint, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            found += parameters(typing.cast("type", hint), f"{name}.")
            continue
        is_list = typing.get_origin(hint) is tuple
        scalar = typing.get_args(hint)[0] if is_list else hint
        if scalar not in _SCALARS or field.default is dataclasses.MISSING:
            raise TypeError(f"{config.__name__}.{field.name}: needs a default and a plain type")
        meta = field.metadata
        default = tuple(field.default) if is_list else scalar(field.default)
        found.append(
            Parameter(
                name,
                scalar,
                is_list,
                default,
                meta.get("doc", ""),
                "" if meta.get("unit") == "1" else meta.get("unit", ""),
                meta.get("low"),
                meta.get("high"),
                tuple(meta.get("choices") or ()),
                bool(meta.get("runtime", False)),
            )
        )
    return tuple(found)


def build(config: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """A checked `config` from dotted names; what is not named keeps its default.

    Args:
        config: frozen dataclass.
        values: dotted name to value.
        where: file, node or option that the values come from, for the error's text.

    Raises:
        ParameterError: unknown name (with the nearest known one), wrong type, out of range.
    """
    known = {p.name: p for p in parameters(config)}
    for name in values:
        if name not in known:
            raise ParameterError(unknown_text(name, known, where))
    return _assemble(config, "", {n: known[n].checked(v, where) for n, v in values.items()})


def unknown_text(name: str, known: Iterable[str], where: str) -> str:
    """The message for an unknown name: remove it, or the nearest known one."""
    close = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean '{close[0]}'?" if close else "remove it"
    return f"{where}: unknown parameter '{name}'; {remedy}"


def _assemble(config: type[Config], prefix: str, values: Mapping[str, Value]) -> Config:
    hints = typing.get_type_hints(config)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            given[field.name] = _assemble(hints[field.name], f"{name}.", values)
        elif name in values:
            given[field.name] = values[name]
    return config(**given)


def flatten(config: Any, prefix: str = "") -> dict[str, Value]:
    """Dotted name to value of a config instance."""
    flat: dict[str, Value] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{field.name}."))
        else:
            flat[prefix + field.name] = value
    return flat


def digest(*configs: Any) -> str:
    """sha256 over the effective values, independent of where they came from."""
    text = json.dumps([(type(c).__name__, flatten(c)) for c in configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_assignment(text: str) -> tuple[str, Any]:
    """`name=value` of the command line; the value is read as YAML.

    Raises:
        ParameterError: no `=`, or no YAML value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ParameterError(f"'{text}': give name=value, as in navigation.frame_timeout_ms=300")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ParameterError(f"'{text}': the value is no YAML; quote it") from error


def load_file(path: Path, nodes: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Node name to dotted values of a ROS 2 parameters file, for the nodes named.

    A section is `/**` (all nodes), a node's name, or a name under any namespace (`/**/navigation`).

    Raises:
        ParameterError: unreadable file, a section for an unknown node, a section of another form.
    """
    nodes = tuple(nodes)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: cannot be read ({error}); name a readable file") from error
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: is no YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise ParameterError(
            f"{path}: holds no sections; write NODE: {{ros__parameters: {{NAME: VALUE}}}}"
        )
    sections: dict[str, dict[str, Any]] = {node: {} for node in nodes}
    for key in sorted(tree, key=lambda k: str(k) != _WILDCARD):
        section = tree[key]
        values = section.get("ros__parameters") if isinstance(section, dict) else None
        if not isinstance(values, dict) or len(section) != 1:
            raise ParameterError(f"{path}: section '{key}' needs 'ros__parameters:' and no other")
        name = str(key).rsplit("/", 1)[-1]
        if key != _WILDCARD and name not in nodes:
            raise ParameterError(
                unknown_text(str(key), nodes, str(path)).replace(
                    "unknown parameter", "unknown node"
                )
            )
        for node in nodes if key == _WILDCARD else (name,):
            sections[node].update(_dotted(values))
    return sections


def _dotted(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_dotted(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_yaml(sections: Mapping[str, tuple[type, Mapping[str, Any]]], title: str) -> str:
    """A ROS 2 parameters file with every parameter, its unit and its meaning.

    Args:
        sections: node name to (config dataclass, dotted values that differ from the defaults).
        title: first comment line.
    """
    lines = [
        f"# {title}",
        "# Generated by `python -m spine_nav_bringup.use_cases`; edit freely.",
        "",
    ]
    for node, (config, values) in sections.items():
        build(config, {k: v for k, v in values.items() if k != "use_sim_time"}, f"use case, {node}")
        lines += [f"/**/{node}:", "  ros__parameters:"]
        if "use_sim_time" in values:
            lines.append(f"    use_sim_time: {json.dumps(values['use_sim_time'])}")
        for p in parameters(config):
            value = values.get(p.name, p.default)
            text = json.dumps(list(value) if p.is_list else value)
            unit = f"[{p.unit}] " if p.unit else ""
            lines.append(f"    {p.name}: {text}  # {unit}{p.doc}".rstrip(" #"))
        lines.append("")
    return "\n".join(lines)
