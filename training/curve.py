# SPDX-License-Identifier: Apache-2.0
"""The school's diary, school.jsonl: one JSON line per turn and exam; as a table and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from training.pupil import distance


def append(path: Path, entry: dict) -> None:
    """One line more, written at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read(path: Path) -> list[dict]:
    """All whole lines; a line that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def merge(source: Path, target: Path) -> None:
    """Append to `target` the lines of `source` that it lacks."""
    if source.resolve() == target.resolve():
        return
    known = {json.dumps(line) for line in read(target)}
    for line in read(source):
        if json.dumps(line) not in known:
            append(target, line)


def table(lines: list[dict], targets: dict[str, dict[str, float]]) -> str:
    """Who has learned what: the last turn and exam of each network, and the first one beside it."""
    if not lines:
        return "nothing has been taught yet: python -m training.school teach"
    out = []
    for name, wanted in targets.items():
        mine = [line for line in lines if line["name"] == name]
        if not mine:
            continue
        last = mine[-1]
        taught = [line for line in mine if line["what"] == "taught"]
        out.append(
            f"{name}: {last['step']} steps, {last['samples']} samples, "
            f"{taught[-1]['views'] if taught else 0} views, {last['minutes']:.0f} min of work"
        )
        if taught:
            out[-1] += (
                f"; last turn {taught[-1]['samples_per_s']:g} samples/s, "
                f"{taught[-1]['views_per_h']} views/h"
            )
        exams = [line for line in mine if line["what"] == "exam"]
        if exams:
            first, now = exams[0], exams[-1]
            out.append(f"  {'error':26}{'target':>9}{'first':>9}{'now':>9}")
            for error, target in wanted.items():
                was, value = (e["errors"].get(error, float("nan")) for e in (first, now))
                out.append(f"  {error:26}{target:9.3f}{was:9.3f}{value:9.3f}")
            out.append(f"  {'distance':26}{0:9.3f}{first['distance']:9.3f}{now['distance']:9.3f}")
        for line in mine:
            if line["what"] in ("graduated", "refused"):
                old, new = (distance(line[k], wanted) for k in ("shipped", "errors"))
                out.append(f"  {line['time']} {line['what']}: {old:.3f} shipped, {new:.3f} it")
    return "\n".join(out)


def plot(lines: list[dict], targets: dict[str, dict[str, float]], path: Path) -> None:
    """Errors over target, by samples seen; a panel per network that sat an exam. Diamonds: graduation
    on the whole validation list, the shipped model hollow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = ("exam", "graduated", "refused")
    exams = {n: [e for e in lines if e["what"] in kinds and e["name"] == n] for n in targets}
    exams = {n: e for n, e in exams.items() if e}
    if not exams:
        raise SystemExit("no exam yet, nothing to draw")
    figure, panels = plt.subplots(
        1, len(exams), figsize=(5.6 * len(exams), 4.4), squeeze=False, constrained_layout=True
    )
    for panel, (name, sat) in zip(panels[0], exams.items(), strict=True):
        for number, (error, target) in enumerate(targets[name].items()):
            colour = f"C{number % 10}"
            taught = [e for e in sat if e["what"] == "exam"]
            x = [e["samples"] / 1000 for e in taught]
            y = [e["errors"].get(error, float("nan")) / target for e in taught]
            panel.plot(x, y, marker=".", color=colour, label=error)
            for e in sat:
                if e["what"] == "exam":
                    continue
                # The whole list: the shipped model hollow, the one after the decay full.
                for model, fill in (("shipped", "none"), ("errors", colour)):
                    value = e[model].get(error, float("nan")) / target
                    panel.plot(e["samples"] / 1000, value, "D", color=colour, mfc=fill, ms=5)
        panel.axhline(1.0, color="black", lw=0.8)
        panel.set(title=name, xlabel="samples seen (thousands)", yscale="log")
        panel.set_ylabel("validation error / target")
        panel.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
