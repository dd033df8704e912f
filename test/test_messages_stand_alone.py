# SPDX-License-Identifier: Apache-2.0
"""No text that a user may read sends him to a document that he does not have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CITES = re.compile(
    r"\bcontracts?\b|\bsections? \d|published-systems|house-style|conventions\.md|reference/",
    re.IGNORECASE,
)
FILES = sorted(
    p
    for d in ("src", "launch", "scripts")
    for p in (ROOT / d).rglob("*.py")
    if "test" not in p.parts
)


def literals(tree: ast.Module):
    """All texts of a module but its docstrings, which only developers read."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docs.add(id(first.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def citing(text: str) -> list[str]:
    return [f"line {n}: {value!r}" for n, value in literals(ast.parse(text)) if CITES.search(value)]


def test_the_scan_sees_messages_and_passes_over_docstrings():
    assert citing('raise ValueError(f"{x} is bad; see contracts section 2")')
    assert citing('def f():\n    """As contracts section 2."""\n    return "good"') == []
    assert len(FILES) > 100


@pytest.mark.parametrize("folder", ["src", "launch", "scripts"])
def test_no_message_cites_a_document_that_users_do_not_have(folder):
    found = {
        str(p.relative_to(ROOT)): citing(p.read_text(encoding="utf-8"))
        for p in FILES
        if p.is_relative_to(ROOT / folder)
    }
    assert {file: lines for file, lines in found.items() if lines} == {}
