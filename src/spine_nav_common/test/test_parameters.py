# SPDX-License-Identifier: Apache-2.0
"""The parameter mechanism: what is wrong is refused with where, what and the remedy."""

from dataclasses import dataclass, field

import pytest
import yaml

from spine_nav_common.parameters import (
    ParameterError,
    build,
    digest,
    flatten,
    load_file,
    param,
    parameters,
    parse_assignment,
    to_yaml,
)


@dataclass(frozen=True)
class Inner:
    margin: float = field(
        default=2.0, metadata={"doc": "lead", "unit": "nat", "low": 0.0, "high": 9.0}
    )


@dataclass(frozen=True)
class Config:
    name: str = param("a", "a word", choices=("a", "b"))
    count: int = param(3, "how many", low=1)
    active: bool = param(True, "a switch")
    sides: tuple[str, ...] = param(("left",), "a list")
    inner: Inner = field(default_factory=Inner)


def test_defaults_and_nesting():
    assert build(Config, {}, "f") == Config()
    changed = build(Config, {"inner.margin": 3, "sides": ["left", "right"]}, "f")
    assert changed == Config(sides=("left", "right"), inner=Inner(3.0))
    assert isinstance(changed.inner.margin, float)
    assert flatten(changed)["inner.margin"] == 3.0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"cont": 3}, "f.yaml: unknown parameter 'cont'; did you mean 'count'?"),
        ({"zzz": 3}, "unknown parameter 'zzz'; remove it"),
        ({"count": 2.5}, "'count' is 2.5 (float); give a int"),
        ({"count": True}, "'count' is True (bool); give a int"),
        ({"active": "yes"}, "give a bool"),
        ({"count": 0}, "give at least 1"),
        ({"inner.margin": 10.0}, "give at most 9 nat"),
        ({"inner.margin": float("nan")}, "give a finite number"),
        ({"name": "c"}, "give one of a, b"),
        ({"sides": "left"}, "give a list of str"),
        ({"sides": [1]}, "give a list of str"),
    ],
)
def test_wrong_values_are_refused(values, text):
    with pytest.raises(ParameterError) as caught:
        build(Config, values, "f.yaml")
    assert text in str(caught.value)


def test_digest_depends_on_values_only():
    assert digest(Config()) == digest(build(Config, {"count": 3}, "elsewhere"))
    assert digest(Config()) != digest(Config(count=4))


def test_a_field_that_ros_cannot_carry_is_a_fault_of_the_program():
    @dataclass(frozen=True)
    class Bad:
        table: dict = field(default_factory=dict)

    with pytest.raises(TypeError, match=r"Bad\.table"):
        parameters(Bad)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b=3", ("a.b", 3)), ("a=left", ("a", "left")), ("a=[1, 2]", ("a", [1, 2]))],
)
def test_assignments(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["a", "=3", "a=[1"])
def test_wrong_assignments(text):
    with pytest.raises(ParameterError):
        parse_assignment(text)


def test_a_written_file_reads_back_and_names_every_parameter(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(to_yaml({"node": (Config, {"count": 7})}, "title"))
    values = load_file(file, ("node", "other"))
    assert values["other"] == {}
    assert set(values["node"]) == {p.name for p in parameters(Config)}
    assert build(Config, values["node"], str(file)) == Config(count=7)
    assert "# [nat] lead" in file.read_text()


def test_sections_of_a_ros_file(tmp_path):
    file = tmp_path / "p.yaml"
    tree = {
        "node": {"ros__parameters": {"count": 5, "inner": {"margin": 1.5}}},
        "/**": {"ros__parameters": {"count": 4, "active": False}},
    }
    file.write_text(yaml.safe_dump(tree))
    read = load_file(file, ("node", "other"))
    assert read["node"] == {"count": 5, "active": False, "inner.margin": 1.5}
    assert read["other"] == {"count": 4, "active": False}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("nod:\n  ros__parameters: {a: 1}\n", "unknown node 'nod'; did you mean 'node'"),
        ("node: {a: 1}\n", "needs 'ros__parameters:'"),
        ("- 1\n", "holds no sections"),
        ("a: [\n", "is no YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, match):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=match):
        load_file(file, ("node",))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="cannot be read"):
        load_file(tmp_path / "none.yaml", ("node",))
