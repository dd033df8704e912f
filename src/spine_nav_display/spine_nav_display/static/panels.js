// SPDX-License-Identifier: Apache-2.0
// Words and numbers: the step's panel, the levels, the traffic light. Text only, never HTML.
import { checkPanel } from "./check.js";

export const STEPS = ["Verify", "Entry", "Trajectory", "Screws", "Rod", "Check"];
const WORDS = {
  ready: "READY", degraded: "DEGRADED", unsafe: "UNSAFE", failed: "FAILED", 
  tracked: "TRACKED", occluded: "OCCLUDED", lost: "LOST", rejected: "REJECTED",
  registering: "REGISTERING", searching: "SEARCHING", unknown: "NOT KNOWN",
};

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element[name] = value;
  element.append(...children.filter((c) => c !== null));
  return element;
}

// Redraws an element only when what it says has changed; make() -> its children.
const said = new WeakMap();
export function say(element, key, make) {
  const text = JSON.stringify(key);
  if (said.get(element) === text) return false;
  said.set(element, text);
  element.replaceChildren(...make());
  return true;
}

const sign = () => h("i", { className: "sign" });
const mm = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const number = (value, unit, words) => h("div", {}, h("b", {}, `${value}${unit ? ` ${unit}` : ""}`), h("span", {}, words));

export function drawHealth(state, link) {
  const box = document.getElementById("health");
  const light = link ? { state: "failed", reasons: [link[1]] } : state.health ?? { state: "unknown", reasons: ["no health was told yet"] };
  // Paused is not ready, whatever the supervisor says of the nodes.
  const paused = state.paused && !link;
  box.className = `state-${paused && light.state === "ready" ? "degraded" : light.state}`;
  const word = link ? link[0] : state.paused ? "PAUSED" : WORDS[light.state];
  document.getElementById("health-word").textContent = word;
  const reasons = paused && light.state === "ready" ? ["nothing is guided until P (Resume)"] : light.reasons;
  document.getElementById("health-why").textContent = reasons.join(" · ");
}

export function drawLevels(state, link) {
  const levels = (state.levels?.levels ?? []).map((l) => (link ? { ...l, status: "unknown", reason: link[0].toLowerCase(), tre_mm: null } : l));
  const box = document.getElementById("levels");
  say(box, levels.map((l) => [l.level, l.status, l.reason, l.tre_mm?.toFixed(1)]), () => levels.map((l) =>
    h("div", { className: `state-${l.status}` },
      h("div", { className: "top" }, sign(), h("b", {}, l.level),
        h("span", { className: "word" }, WORDS[l.status] ?? l.status.toUpperCase()),
        l.status === "tracked" ? h("span", { className: "bound" }, `± ${mm(l.tre_mm)} mm`) : null),
      h("div", { className: "why", title: l.reason }, l.reason || (l.status === "tracked" ? "95 % bound" : "")))));
}

const hiddenWhy = (why) => h("div", { className: "hidden-why" }, sign(), h("span", {}, `Nothing is shown: ${why}`));

export function drawPanel(state, trouble) {
  const panel = document.getElementById("panel");
  [verify, entry, trajectoryPanel, screws, rod, checkPanel][state.step](panel, state, trouble);
}

function verify(panel, state, { guidanceTrouble }) {
  const why = guidanceTrouble();
  const question = why || state.question?.side ? null : state.question;
  const levels = state.levels?.levels ?? [];
  const tracked = levels.filter((l) => l.status === "tracked").length;
  const proven = { proven: "The shape of the bone proves the patient", refused: "THE SHAPE IS NOT THIS PATIENT'S", unknown: "The shape has not proven the patient yet" };
  say(panel, ["verify", why, question, tracked, levels.length, state.levels?.identity], () => [
    h("h2", {}, question?.line ? `Is this the plan of ${question.line.level} ${question.line.side}?` : "Is this the right spine, level by level?"),
    why ? hiddenWhy(why) : null,
    question ? h("div", { className: question.line ? "question line" : "question" }, question.text) : null,
    question ? h("div", {}, question.line ? "White in the 3D view. Confirm or reject." : `Count from the sacrum, then confirm or reject: ${question.levels.join(", ")}`) : null,
    question ? h("div", { className: "note" }, `question ${question.id}`) : null,
    !why && !question ? h("div", { className: "numbers" }, number(`${tracked} of ${levels.length}`, "", "levels tracked"), number(question ? "1" : "none", "", "questions open")) : null,
    why ? null : h("div", {}, proven[state.levels?.identity] ?? ""),
  ].filter(Boolean));
}

function chosen(state) { return state.plan[state.screw % Math.max(1, state.plan.length)]; }
const title = (state, screw) => `${screw.level} ${screw.side}  (${state.screw % state.plan.length + 1} of ${state.plan.length}, ← →)`;
const bound = (state, screw) => state.levels.levels.find((l) => l.level === screw.level)?.tre_mm;

function noPlan(panel, step) {
  say(panel, [step, "none"], () => [h("div", {}, "No screw is planned in this case.")]);
}

function entry(panel, state, { guidanceTrouble }) {
  const screw = chosen(state);
  if (!screw) return noPlan(panel, "entry");
  const why = guidanceTrouble(screw.level);
  const at = why ? null : project(state, screw, "entry");
  say(panel, ["entry", screw, why, Boolean(at), why || mm(bound(state, screw)), why || !at ? 0 : Math.round(at.depth * 1000)], () => [
    h("h2", {}, `Entry ${title(state, screw)}`),
    why ? hiddenWhy(why) : h("div", { className: "split" },
      h("canvas", { id: "magnifier", width: 320, height: 320, hidden: !at }),
      h("div", {},
        h("div", { className: "numbers" },
          number(`± ${mm(bound(state, screw))}`, "mm", "95 % bound of the plan's points"),
          number(at ? (at.depth * 1000).toFixed(0) : "–", "mm", "from the camera")),
        h("div", { className: "note" }, at ? "The circle is the bound around the planned entry." : "No place in the picture: its poses are not known, or the entry lies outside of it."))),
  ]);
  if (at) magnify(state, screw, at);
}

// Where a planned point lies in the picture: pixel, metres from the camera, and mm per pixel there.
function project(state, screw, point) {
  const c = state.camera;
  // Of the very image that is shown: the camera may have moved since.
  const T = state.byStamp.get(state.picture?.stamp_ns)?.levels.find((l) => l.level === screw.level)?.T;
  if (!c || !T || state.picture.name !== c.name) return null;
  const p = screw[point];
  const at = [0, 1, 2].map((i) => T[4 * i] * p[0] + T[4 * i + 1] * p[1] + T[4 * i + 2] * p[2] + T[4 * i + 3]);
  if (at[2] <= 0.05) return null;
  const u = c.fx * at[0] / at[2] + c.cx;
  const v = c.fy * at[1] / at[2] + c.cy;
  return u < 0 || v < 0 || u >= c.width || v >= c.height ? null : { u, v, depth: at[2], perMm: c.fx / at[2] / 1000 };
}

function magnify(state, screw, at) {
  const canvas = document.getElementById("magnifier");
  const picture = document.getElementById("picture");
  const context = canvas.getContext("2d");
  const scale = picture.width / state.camera.width;
  const half = Math.max(12, 18 * at.perMm) * scale;  // 36 mm across
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, at.u * scale - half, at.v * scale - half, 2 * half, 2 * half, 0, 0, canvas.width, canvas.height);
  const zoom = canvas.width / (2 * half) * scale;
  context.lineWidth = 3;
  context.strokeStyle = screw.side === "left" ? "#6cc3ff" : "#ff9f43";
  context.beginPath();
  context.arc(canvas.width / 2, canvas.height / 2, Math.max(4, bound(state, screw) * at.perMm * zoom), 0, 7);
  context.moveTo(canvas.width / 2 - 9, canvas.height / 2); context.lineTo(canvas.width / 2 + 9, canvas.height / 2);
  context.moveTo(canvas.width / 2, canvas.height / 2 - 9); context.lineTo(canvas.width / 2, canvas.height / 2 + 9);
  context.stroke();
}

function trajectoryPanel(panel, state, { guidanceTrouble, eyeTrouble, toolAt }) {
  const screw = chosen(state);
  if (!screw) return noPlan(panel, "trajectory");
  const why = guidanceTrouble(screw.level);
  const tile = why || eyeTrouble() ? null : tileOf(state, screw);
  const at = why ? "" : toolAt(screw);
  const [tool, note] = typeof at === "string" ? [null, at] : [at, ""];
  const margin = why ? null : state.levels.levels.find((l) => l.level === screw.level)?.margins?.[screw.side] ?? null;
  const least = margin && (Math.abs(margin.least95_mm) < 0.05 ? 0 : margin.least95_mm);  // no "-0.0"
  const turned = (deg, positive, negative) => (Math.abs(deg) < 0.5 ? "0°" : `${Math.abs(deg).toFixed(0)}° ${deg > 0 ? positive : negative}`);
  const told = tool ? [mm(tool.entry_mm), mm(tool.entry95_mm), mm(tool.angle_deg), mm(tool.angle95_deg), mm(tool.depth_mm, 0)] : note;
  say(panel, ["trajectory", screw, why, Boolean(tile), told, margin && [mm(margin.least95_mm), margin.toward]], () => [
    h("h2", {}, `Trajectory ${title(state, screw)}`),
    why ? hiddenWhy(why) : h("div", { className: "split along" },
      h("canvas", { id: "bull", width: 480, height: 480, hidden: !tile }),
      h("div", {},
        h("div", { className: "numbers" },
          ...(tool ? [
            number(`${told[0]} ± ${told[1]}`, "mm", "tool from the entry"),
            number(`${told[2]} ± ${told[3]}°`, "", "tool off the axis"),
            number(`${told[4]} of ${mm(screw.length_mm, 0)}`, "mm", "tip behind the entry"),
          ] : [
            number(turned(screw.transverse_deg, "medial", "lateral"), "", "transverse"),
            number(turned(screw.sagittal_deg, "cranial", "caudal"), "", "sagittal"),
            number(mm(screw.length_mm, 0), "mm", "planned depth"),
          ]),
          margin ? number(`≥ ${mm(least, Math.abs(least) < 9.95 ? 1 : 0)}`, "mm", `to the cortex, ${margin.toward}`) : number("–", "", "to the cortex: not known yet")),
        h("div", { className: "note" }, tile ? (tool ? "Along the planned axis." : `Along the planned axis. ${note}`) : eyeTrouble()))),
  ]);
  if (tile) drawTile(state.eye.bitmap, tile);
}

// Where the tile of a screw lies in the overlay's view along the trajectories: a row per planned level,
// left and right.
function tileOf(state, screw) {
  const rows = state.levels.levels.map((l) => l.level).filter((v) => state.plan.some((p) => p.level === v));
  const row = rows.indexOf(screw.level);
  const side = state.eye.bitmap.width / 2;
  return row < 0 || (row + 1) * side > state.eye.bitmap.height ? null : { x: screw.side === "left" ? 0 : side, y: row * side, side };
}

function drawTile(bitmap, { x, y, side }) {
  const canvas = document.getElementById("bull");
  canvas.getContext("2d").drawImage(bitmap, x, y, side, side, 0, 0, canvas.width, canvas.height);
}

function screws(panel, state, { implantTrouble }) {
  const why = implantTrouble();
  const rows = why ? [] : [...state.implants.screws].sort((a, b) => `${a.level}${a.id}`.localeCompare(`${b.level}${b.id}`, "en", { numeric: true }));
  const named = rows.filter((r) => r.level && r.side);
  const reasons = [...new Set(rows.map((r) => r.check_reason).filter(Boolean))];
  const unseen = why ? [] : state.plan.filter((p) => !named.some((r) => r.level === p.level && r.side === p.side)).map((p) => `${p.level} ${p.side}`);
  const side = (name) => h("div", {}, h("table", {},
    h("tr", {}, ...[name, "entry, mm", "angle, °", "grade"].map((w) => h("th", {}, w))),
    ...named.filter((r) => r.side === name).slice(0, 7).map((r) => h("tr", { className: r.seen ? "" : "held" },
      h("td", {}, h("b", {}, r.level)),
      h("td", {}, r.entry_mm === null ? "–" : `${mm(r.entry_mm)} ± ${mm(r.entry95_mm)}`),
      h("td", {}, r.angle_deg === null ? "–" : `${mm(r.angle_deg, 0)} ± ${mm(r.angle95_deg, 0)}`),
      h("td", { className: r.grade ? `grade-${r.grade}` : "" }, r.seen ? h("b", {}, r.grade || "–") : "held")))));
  say(panel, ["screws", why, rows.map((r) => [r.id, r.level, r.side, r.seen, mm(r.entry_mm), mm(r.angle_deg, 0), mm(r.entry95_mm), mm(r.angle95_deg, 0), r.grade, r.check_reason]), unseen], () => [
    why ? hiddenWhy(why) : rows.length ? h("div", { className: "sides" }, side("left"), side("right")) : h("div", {}, "No screw is seen."),
    rows.length > named.length ? h("div", { className: "note" }, `${rows.length - named.length} heads have no name yet`) : null,
    rows.length && unseen.length ? h("div", { className: "note clamp one" }, `Planned, not seen: ${unseen.join(", ")}`) : null,
    reasons.length ? h("div", { className: "note clamp" }, reasons.join(" · ")) : null,
  ].filter(Boolean));
}

function rod(panel, state, { implantTrouble }) {
  const why = implantTrouble();
  const sides = why ? [] : state.bending?.sides ?? [];
  const question = !why && state.question?.side ? state.question : null;
  if (question) return rodQuestion(panel, question, sides);
  say(panel, ["rod", why, sides], () => [
    why ? hiddenWhy(why) : sides.length ? h("div", { className: "sides" }, ...sides.map(rodSide)) : h("div", {}, "No rod is planned yet."),
  ]);
}

function rodQuestion(panel, question, sides) {
  const named = question.levels.length > 0;
  const others = sides.filter((s) => s.side !== question.side);
  say(panel, ["rod question", question, others.map((s) => [s.side, s.state, s.text])], () => [
    h("h2", {}, named ? `No screw at ${question.levels.join(", ")} ${question.side}, on purpose?` : `Is the row on the ${question.side} complete?`),
    h("div", { className: "question" }, question.text),
    h("div", {}, named ? "Confirm: there is none. Reject: it is there, show it." : "Confirm: no screw is missing. Reject: one is, show it."),
    h("div", { className: "note" }, `question ${question.id}`),
    ...others.map((s) => h("div", { className: "note clamp one" }, `${s.side}: ${s.text}`)),
  ]);
}

// The last bend that is done, those to come, and what the real rod asks for next.
function rodSide(s) {
  const most = s.next ? 2 : 3;
  const from = Math.max(0, Math.min(s.done - 1, s.steps.length - most));
  const bend = (step, className, name) => h("tr", { className }, h("td", {}, name),
    ...(step.feed_mm === undefined ? [h("td", { className: "wide", colSpan: 3 }, step.text)]
      : [h("td", {}, `${mm(step.feed_mm)} mm`), h("td", {}, `${mm(step.rotate_deg, 0)}°`), h("td", {}, `${mm(step.bend_deg)}°`)]));
  const steps = s.steps.slice(from, from + most).map((step, i) => {
    const n = from + i;
    return bend(step, n < s.done ? "done" : n === s.done && !s.next ? "next" : "", n < s.done ? `${n + 1} ✓` : `${n + 1}`);
  });
  return h("div", {},
    h("h3", { className: `state-${s.state}` }, sign(), h("span", {}, `${s.side.toUpperCase()}: ${s.state}`)),
    h("div", { className: s.next ? "clamp one" : s.steps.length ? "clamp" : "clamp long" }, s.text),
    s.steps.length ? h("table", {}, h("tr", {}, ...["bend", "feed", "rotate", "bend to"].map((w) => h("th", {}, w))),
      ...steps, s.next ? bend(s.next, "next", "next") : null) : null,
    s.rod ? h("div", { className: "note clamp" }, `${s.done}/${s.steps.length} done · ${Number(s.length_mm).toFixed(0)} mm${s.gap_mm ? ` · gap ${Number(s.gap_mm).toFixed(1)} mm` : ""}`) : null,
    s.warnings && !s.next ? h("div", { className: "note clamp" }, s.warnings) : null);
}
