// SPDX-License-Identifier: Apache-2.0
// The landmark check: the surgeon clicks what he is asked for, on the picture that is shown.
import { h, say } from "./panels.js";

const ROWS = 3;  // landmarks that are listed at once
const mm = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} mm`);

// The level that the step is about: ← → go through them.
export const checkedLevel = (state) => {
  const levels = state.levels?.levels ?? [];
  return levels[state.checked % Math.max(1, levels.length)]?.level ?? null;
};
const found = (state) => state.check?.levels?.[checkedLevel(state)] ?? null;

// What can be asked for now.
export function mayCheck(state, verb, guidanceTrouble) {
  const level = checkedLevel(state);
  const open = found(state)?.state === "open";
  if (!level || guidanceTrouble()) return false;
  if (verb === "begin") return !open && !guidanceTrouble(level);
  return open && (verb !== "touch" || !guidanceTrouble(level));
}

export function checkWords(state, verb) {
  const words = { do: verb, level: checkedLevel(state), session: state.session };
  return verb === "touch" || verb === "skip" ? { ...words, number: found(state).next } : words;
}

// Where in the camera's image a click on the shown picture lies, lens distortion included as in both; null =
// beside it.
export function clickedPixel(event, canvas, camera) {
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const x = (event.clientX - box.left - (box.width - canvas.width * scale) / 2) / scale;
  const y = (event.clientY - box.top - (box.height - canvas.height * scale) / 2) / scale;
  if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return null;
  return { u: x * camera.width / canvas.width, v: y * camera.height / canvas.height };
}

export function checkPanel(panel, state, { guidanceTrouble, runCheck }) {
  const levels = state.levels?.levels ?? [];
  const level = checkedLevel(state);
  const check = found(state);
  const why = level ? guidanceTrouble(level) : "no level is navigated";
  const may = (verb) => mayCheck(state, verb, guidanceTrouble);
  const key = (verb, word, cap) => h("button", { disabled: !may(verb), onclick: () => runCheck(verb) }, h("span", {}, word), h("kbd", {}, cap));
  say(panel, ["check", level, check, why, state.checked, levels.length, ["begin", "skip", "undo", "end"].map(may)], () => {
    const open = check?.state === "open";
    // What passed holds of the pose that is shown, and of none that is not.
    const hidden = why && check?.state !== "failed";
    const verdict = check && !open && !hidden ? `${level} ${check.text}` : "";
    const asked = open && check.next ? check.landmarks[check.next - 1].name : "";
    const from = check ? Math.max(0, Math.min((check.next ?? 1) - 2, check.landmarks.length - ROWS)) : 0;
    return [
      h("h2", {}, level ? `Check ${level}  (${state.checked % levels.length + 1} of ${levels.length}, ← →)` : "Check"),
      why && !verdict ? h("div", { className: "hidden-why" }, h("i", { className: "sign" }), h("span", {}, why)) : null,
      asked && !why ? h("div", { className: "question" }, `Click: ${asked}`) : null,
      verdict ? h("div", { className: `verdict state-${{ passed: "ready", failed: "unsafe" }[check.state] ?? "unknown"}` }, h("i", { className: "sign" }), h("b", { className: "clamp" }, verdict)) : null,
      !check && !why ? h("div", {}, "Touch landmarks of the bone, and compare with where the plan has them.") : null,
      check && !hidden ? h("ol", { className: "marks", start: from + 1 }, ...check.landmarks.slice(from, from + ROWS).map((x, i) => h("li", { className: open && check.next === from + i + 1 ? "next" : "" },
        `${x.name}${x.residual_mm === null ? (x.mark ? `: ${x.mark}` : "") : `: ${mm(x.residual_mm)}`}`))) : null,
      open || (may("begin") && check?.state !== "failed") ? h("div", { className: "verbs" }, open ? null : key("begin", check ? "Again" : "Begin", "B"), ...(open ? [key("skip", "Not to be seen", "K"), key("undo", "Take back", "U"), key("end", "Give up", "E")] : [])) : null,
    ].filter(Boolean);
  });
}
