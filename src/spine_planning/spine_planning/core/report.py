# SPDX-License-Identifier: Apache-2.0
"""report.html: one page about a plan, readable without the software, its pictures inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTICE = "Research software, not a medical device. A surgeon decides about every screw."
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1120px;margin:24px auto;padding:0 16px;color:#111}
h1{font-size:23px;margin-bottom:4px}h2{font-size:18px;margin:30px 0 8px}h3{font-size:16px;margin:26px 0 6px}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:4px 8px;text-align:left;
vertical-align:top}th{border-bottom:2px solid #888}td.n{text-align:right;font-variant-numeric:tabular-nums}
img{width:100%;border-radius:6px}.small{color:#444;font-size:13px}.warn{background:#fff3cd;padding:6px 10px;
border-left:4px solid #E69F00;margin:6px 0}.refused{background:#fde3da;padding:6px 10px;border-left:4px solid
#D55E00;margin:6px 0}.g{display:inline-block;min-width:1.6em;text-align:center;border-radius:4px;font-weight:600}
.gA{background:#009E73;color:#fff}.gB{background:#F0E442}.gC{background:#E69F00}.gD,.gE{background:#D55E00;color:#fff}
@media print{body{margin:0}}
"""
DIRECTIONS = ("medial", "lateral", "cranial", "caudal", "anterior")


@dataclass(frozen=True)
class Page:
    """title; facts: words about where the plan is from; document: plan_report.json's; overview and
    pictures (by screw's name): PNG."""

    title: str
    facts: Sequence[str]
    document: Mapping[str, Any]
    overview: bytes | None
    pictures: Mapping[str, bytes]


def render(page: Page) -> str:
    """The page."""
    d = page.document
    out = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{_t(page.title)}</title><style>{_STYLE}</style>",
        f"<h1>{_t(page.title)}</h1><p class='small'>{_t(NOTICE)}</p>",
        *(f"<p>{_t(fact)}</p>" for fact in page.facts),
        *(f"<p class='warn'>{_t(note)}</p>" for note in d.get("notes", ())),
        *(
            f"<p class='refused'><b>{_t(r['name'])}</b>: {_t(r['reason'])}</p>"
            for r in d["refused"]
        ),
    ]
    if page.overview is not None:
        out.append(
            _image(page.overview, "the spine from behind and from the left, with its screws")
        )
    out += ["<h2>Screws</h2>", _screws(d["screws"]), _explained(d)]
    for screw in d["screws"]:
        picture = page.pictures.get(screw["name"])
        if picture is None:
            continue
        out.append(f"<h3>{_t(_spoken(screw['name']))} {_grade(screw)}</h3>")
        if screw.get("why"):
            out.append(f"<p class='small'>{_t(screw['why'])}</p>")
        out.append(_image(picture, f"{screw['name']}: axial, sagittal and across"))
        others = screw.get("alternatives") or []
        if others:
            listed = "; ".join(_t(str(o["why"])) for o in others)
            out.append(f"<p class='small'>Other plans for this pedicle: {listed}.</p>")
    out += ["<h2>Measures</h2>", _measures(d["measures"])]
    return "\n".join(out) + "\n"


def _t(text: str) -> str:
    return html.escape(text)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _image(png: bytes, words: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f"<img alt='{_t(words)}' src='data:image/png;base64,{data}'>"


def _grade(screw: Mapping[str, Any]) -> str:
    grade = screw["grade"]["gertzbein_robbins"]
    return f"<span class='g g{grade}'>{grade}</span>"


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _screws(screws: Sequence[Mapping[str, Any]]) -> str:
    head = ("screw", "size mm", "GR", "breach", *DIRECTIONS, "Zdichavsky", "Ravi", "Heary", "Babu",
            "HU")  # fmt: skip
    rows = []
    for s in screws:
        g, margins = s["grade"], s["margin_mm"]
        size = f"{s['diameter_mm']:g} × {s['length_mm']:g}"
        rows.append([
            _t(_spoken(s["name"])), size, _grade(s), f"{100 * s['p_breach']:.1f} %",
            *(_number(margins.get(k)) for k in DIRECTIONS),
            *("–" if g[k] is None else str(g[k]) for k in ("zdichavsky", "ravi", "heary", "babu")),
            _number(s.get("density_hu"), 0),
        ])  # fmt: skip
    return _table(head, rows)


def _explained(d: Mapping[str, Any]) -> str:
    return (
        "<p class='small'>GR: Gertzbein-Robbins of the planned place, of the whole shaft from 8 mm behind"
        " the surface on. breach: share of poses that breach when the vertebra lies as far off as 95 % of"
        f" registrations within {d['predicted_error_mm']:g} mm. medial to caudal: bone between thread and"
        " cortex, mm; anterior: from the tip along the axis. Babu: from the surface of the vertebra"
        " above (– where it is not in view). In the cuts: cortex yellow, neighbours blue, screw in"
        " the colour of its grade.</p>"
    )


def _measures(measures: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for m in measures.values() for name in m))
    rows = [
        [_t(name.replace("_", " ").removesuffix(" mm").removesuffix(" deg")),
         "°" if name.endswith("deg") else "mm",
         *(_number(m.get(name)) for m in measures.values())]
        for name in names
    ]  # fmt: skip
    return _table(("measure", "", *measures), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_t(h)}</th>" for h in head)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table><tr>{top}</tr>{body}</table>"
