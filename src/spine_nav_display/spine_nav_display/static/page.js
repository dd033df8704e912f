// SPDX-License-Identifier: Apache-2.0
// The page: what is known, what may be shown of it now, and what the surgeon says.
import { Clock, Control, Video } from "./link.js";
import { checkWords, clickedPixel, mayCheck } from "./check.js";
import { STEPS, drawPanel, drawLevels, drawHealth } from "./panels.js";
import { Space } from "./view3d.js";

const LOOK_MS = 100;      // how often the watch looks
const ARM_MS = 600;       // a question that has just come is not answered by a key meant for another
const HOLD_MS = 600;      // how long a key is held that answers
const TOLD_MS = 12000;
const OLD_SCREWS_MS = 1500;
const OLD_HEALTH_MS = 3500;  // the supervisor says it once a second
const KEPT_LEVELS = 16;   // a picture comes later than the poses of its image
const KEPT_DELAYS = 600;

const $ = (id) => document.getElementById(id);
const state = {
  session: "", page: "", limits: { picture_ms: 300, stereo_ms: 500, silence_ms: 700 }, snapshots: false,
  levels: null, health: null, implants: null, bending: null, plan: [], camera: null,
  names: [], shownName: "", picture: null, step: 0, screw: 0, checked: 0, check: null, paused: false,
  eye: null, tool: null, question: null, questionAt: 0, byStamp: new Map(), told: null,
};
const clock = new Clock();
const delays = [];        // ms from the camera's stamp to the frame after the picture was drawn
const ways = [];          // ms of each part of it: to the display, to the page, decoded, on the screen
window.spinenav = { state, delays, ways, clock, pictures: 0, covered: true };  // for tests and measurements

// What may be shown now. Every answer is a reason against, or "".

const ageOf = (m) => (m && clock.known ? (m.age_ms ?? 0) + clock.now() - m.arrived_ms : Infinity);

function linkTrouble() {
  const now = performance.now();
  const silent = now - control.pongAt;
  if (silent > state.limits.silence_ms) {
    return ["NO CONTACT", Number.isFinite(silent) ? `nothing heard for ${(silent / 1000).toFixed(1)} s` : "the display does not answer"];
  }
  if (!clock.known) return ["NO CONTACT", "the display was lost and is looked for"];
  const core = control.coreMs + silent;
  if (core > state.limits.silence_ms + 300) return ["DISPLAY STANDS STILL", `the graph was not heard for ${(core / 1000).toFixed(1)} s`];
  return null;
}

function pictureTrouble() {
  if (!state.picture) return ["NO PICTURE YET", "waiting for the first one"];
  const came = performance.now() - state.picture.cameAt;
  if (came > state.limits.silence_ms) return ["PICTURE STOPPED", `no new picture for ${(came / 1000).toFixed(1)} s`];
  const age = ageOf(state.picture);
  const limit = state.picture.name === "stereo" ? state.limits.stereo_ms : state.limits.picture_ms;
  if (age > limit) return ["PICTURE TOO OLD", `${Math.round(age)} ms, limit ${limit} ms`];
  return null;
}

// Why nothing of the vertebrae, or of one, is shown.
export function guidanceTrouble(level) {
  const link = linkTrouble() ?? pictureTrouble();
  if (link) return `${link[0].toLowerCase()}: ${link[1]}`;
  if (!state.levels) return "the navigation has said nothing yet";
  const silent = clock.now() - state.levels.arrived_ms;
  if (silent > state.limits.silence_ms + 300) return `the navigation is silent for ${(silent / 1000).toFixed(1)} s`;
  const age = ageOf(state.levels);
  if (state.levels.stamp_ns !== "0" && age > state.limits.picture_ms) return `the poses are ${Math.round(age)} ms old, limit ${state.limits.picture_ms} ms`;
  if (level === undefined) return "";
  const found = state.levels.levels.find((l) => l.level === level);
  if (!found) return `${level} is not navigated`;
  return found.status === "tracked" && found.T ? "" : `${level} is ${found.status}${found.reason ? `: ${found.reason}` : ""}`;
}

// Why nothing of screws and rods is shown: they are of the stereo camera, and go by its time alone.
export function implantTrouble() {
  const link = linkTrouble();
  if (link) return `${link[0].toLowerCase()}: ${link[1]}`;
  if (!state.implants) return "no stereo camera tells of screws";
  if (state.implants.reason) return state.implants.reason;
  const age = Math.max(ageOf(state.implants), clock.now() - state.implants.arrived_ms);
  return age > OLD_SCREWS_MS ? `the screws are ${(age / 1000).toFixed(1)} s old` : "";
}

// The traffic light as the supervisor says it, and none where it says no more.
function health() {
  const age = state.health && clock.known ? clock.now() - state.health.arrived_ms : 0;  // without a clock the link is in trouble
  return age > OLD_HEALTH_MS ? { state: "unknown", reasons: [`the supervisor is silent for ${(age / 1000).toFixed(0)} s`] } : state.health;
}

// The watch: by this page's own clock.

let reported = "";
function watch() {
  const link = linkTrouble();
  const trouble = link ?? pictureTrouble();
  $("cover").hidden = !trouble;
  if (trouble) [$("cover-word").textContent, $("cover-why").textContent] = trouble;
  for (const a of $("dead").getAnimations()) a.currentTime = 0;  // this script lives, and covers what is stale by itself
  window.spinenav.covered = Boolean(trouble);
  asked();
  drawAge(trouble);
  drawHealth({ ...state, health: health() }, link);
  draw();
  const shown = guidanceTrouble() ? [] : state.levels.levels.filter((l) => l.T).map((l) => l.level);
  const report = JSON.stringify([shown, Boolean(trouble)]);
  if (report !== reported) {
    reported = report;
    control.send({ kind: "shows", levels: shown, covered: trouble ? trouble.join(": ") : "", picture: state.picture?.stamp_ns ?? "" });
  }
}

function drawAge(trouble) {
  const age = ageOf(state.picture);
  const known = state.picture && Number.isFinite(age);
  $("age").className = trouble ? "state-unsafe" : "state-ready";
  $("age-number").textContent = known ? (age > 9999 ? ">9999" : `${state.picture.age_sure ? "" : "≥"}${Math.max(0, Math.round(age))}`) : "–";
}

let due = false;
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    drawLevels(state, linkTrouble());
    lookAlong(STEPS[state.step] === "Trajectory");
    drawPanel(state, { guidanceTrouble, implantTrouble, eyeTrouble, toolAt, runCheck });
    $("picture").classList.toggle("aim", STEPS[state.step] === "Check" && mayCheck(state, "touch", guidanceTrouble));
    space.draw(state, { guidanceTrouble, implantTrouble });
    drawButtons();
    if (state.told && performance.now() - state.told.at > TOLD_MS) state.told = null;
    $("told").textContent = state.told ? state.told.text : "";
    $("told").className = state.told && !state.told.ok ? "bad" : "";
  });
}

// A level whose landmark check failed is gone at that word, not with the next result.
function withheld(m) {
  for (const l of m?.levels ?? []) {
    const check = state.check?.levels?.[l.level];
    if (check?.state !== "failed" || !l.T) continue;
    Object.assign(l, { status: "rejected", T: null, tre_mm: null, reason: `the landmark check ${check.text}` });
  }
  return m;
}

// One question at a time: of the rods once nothing of the levels is asked.
function asked() {
  const rod = state.bending && clock.known && clock.now() - state.bending.arrived_ms < OLD_SCREWS_MS ? state.bending.question : null;
  const question = state.levels?.question ?? rod ?? null;
  if (question?.id !== state.question?.id) state.questionAt = performance.now();
  state.question = question;
}

// Where a question is read: only there it is answered. "" = anywhere.
const askedAt = (question) => (question.side ? "Rod" : question.line ? "Verify" : "");

// What is heard.

const control = new Control(clock, {
  hello(m) {
    Object.assign(state, { page: m.page, session: m.session, snapshots: m.snapshots });
    state.limits = { picture_ms: m.picture_ms, stereo_ms: m.stereo_ms, silence_ms: m.silence_ms };
    Object.assign(state, { levels: null, implants: null, bending: null, check: null, health: null, question: null, livePlan: null, tool: null });
    load();
  },
  session(m) {
    state.session = m.session;
    for (const told of [state.levels, state.bending]) if (told) told.question = null;  // of the session before
    asked();
  },
  levels(m) {
    state.levels = withheld(m);
    state.byStamp.set(m.stamp_ns, m);
    if (state.byStamp.size > KEPT_LEVELS) state.byStamp.delete(state.byStamp.keys().next().value);
    asked();
    draw();
  },
  implants(m) { state.implants = m; draw(); },
  bending(m) { state.bending = m; asked(); draw(); },
  check(m) { state.check = m; state.levels = withheld(state.levels); draw(); },
  tool(m) { state.tool = m; },
  health(m) { state.health = m; },
  camera(m) { state.camera = m; },
  plan(m) { state.livePlan = m.plan; usePlan(m.plan); },
  paused(m) { state.paused = m.paused; },
  pictures(m) { state.names = m.names; },
  outcome(m) {
    const who = m.page === state.page ? "" : `page ${m.page}: `;
    state.told = { text: `${who}${m.text || (m.ok ? `${m.action}: done` : m.action)}`, ok: m.ok, at: performance.now() };
    draw();
  },
});

const CAMERAS = { rgbd: "RGB-D" };
const context = $("picture").getContext("bitmaprenderer");
const video = new Video((words, bitmap) => {
  if (state.shownName && words.name !== state.shownName) return;
  const fresh = state.picture?.stamp_ns !== words.stamp_ns;
  $("picture").width = bitmap.width; $("picture").height = bitmap.height;
  context.transferFromImageBitmap(bitmap);
  // A picture that only comes again proves nothing.
  state.picture = { ...words, cameAt: fresh ? performance.now() : state.picture.cameAt };
  $("camera-name").textContent = `${CAMERAS[words.name] ?? words.name} camera`;
  window.spinenav.pictures += 1;
  watch();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (words.age_ms === null || !clock.known) return;
    const drawn = performance.now(), heard = words.heard + clock.offset;
    delays.push(words.age_ms + drawn + clock.offset - words.arrived_ms);
    ways.push([words.age_ms, heard - words.arrived_ms, words.decoded - words.heard, drawn - words.decoded]);
    if (delays.length > KEPT_DELAYS) { delays.shift(); ways.shift(); }
  }));
});

// The view along the trajectories, as the overlay draws it: asked for only where it is looked at.
const EYE = "bulls_eye";
let eye = null;
function lookAlong(wanted) {
  if (wanted && !eye) eye = new Video((words, bitmap) => {
    if (words.name !== EYE) return bitmap.close();
    state.eye?.bitmap.close();
    state.eye = { ...words, bitmap, cameAt: performance.now() };
    draw();
  }, EYE);
  else if (eye && (eye.name === EYE) !== wanted) eye.show(wanted ? EYE : "none");
  if (!wanted) state.eye = null;
}

// Why the view along the trajectories is not shown.
function eyeTrouble() {
  if (!state.eye) return "the view along the trajectory has not come yet";
  const came = performance.now() - state.eye.cameAt;
  const age = ageOf(state.eye);
  return came > state.limits.silence_ms || age > state.limits.picture_ms ? "the view along the trajectory has stopped" : "";
}

// How far the tool is off the plan of a screw, or why nothing is said of it (text).
function toolAt(screw) {
  const tool = state.tool;
  if (!tool) return "No tool is tracked: its deviation is not measured.";
  if (clock.now() - tool.arrived_ms > state.limits.picture_ms) return "The tool is not tracked any more.";
  if (tool.reason) return tool.reason;
  return tool.level === screw.level && tool.side === screw.side ? tool : "The tool is not at this screw.";
}

async function load() {
  const told = await (await fetch("/case.json")).json();
  space.load(told);
  usePlan(state.livePlan ?? told.plan ?? []);  // what the surgeon confirmed since stands over the case's
}

// The chosen screw stays chosen where the plan has it still.
function usePlan(plan) {
  const was = state.plan[state.screw % Math.max(1, state.plan.length)];
  state.plan = plan;
  const at = plan.findIndex((p) => p.level === was?.level && p.side === was?.side);
  if (at >= 0) state.screw = at;
  space.replan(plan);
  draw();
}

// What the surgeon says.

const answers = new Set(["confirm", "reject"]);
const BUTTONS = [
  ["confirm", "Confirm", "Y"], ["reject", "Reject", "N"], ["register", "Register", "R"],
  ["pause", "Pause", "P"], ["snapshot", "Snapshot", "S"], ["camera", "Camera", "C"], ["view", "View", "V"],
];

function may(action) {
  if (action === "camera") return state.names.length > 1;
  if (action === "view") return true;
  if (linkTrouble()) return false;
  if (action === "snapshot") return state.snapshots;
  // Who answers must see what is asked about, now.
  if (answers.has(action)) return Boolean(state.question) && ["", STEPS[state.step]].includes(askedAt(state.question)) && !(state.question.side ? implantTrouble() : guidanceTrouble()) && performance.now() - state.questionAt > ARM_MS;
  return true;
}

function run(action) {
  if (!may(action)) return;
  if (action === "camera") {
    const at = state.names.indexOf(state.picture?.name);
    state.shownName = state.names[(at + 1) % state.names.length];
    state.picture = null;
    video.show(state.shownName);
  } else if (action === "view") {
    space.next();
  } else {
    const asked = answers.has(action) ? { question: state.question.id, stamp_ns: (state.question.side ? state.bending : state.levels).stamp_ns } : {};
    control.act(action === "pause" && state.paused ? "resume" : action, { session: state.session, ...asked });
  }
  draw();
}

function runCheck(verb, more = {}) {
  if (mayCheck(state, verb, guidanceTrouble)) control.act("check", { ...checkWords(state, verb), ...more });
}
$("picture").addEventListener("click", (event) => {
  const { camera, picture } = state;
  if (STEPS[state.step] !== "Check" || !camera || picture?.name !== camera.name) return;
  const at = clickedPixel(event, $("picture"), camera);
  if (at) runCheck("touch", { ...at, stamp_ns: picture.stamp_ns });  // of the picture that was clicked
});

const buttons = new Map();
for (const [action, word, key] of BUTTONS) {
  const button = document.createElement("button");
  const label = document.createElement("span");
  const cap = document.createElement("kbd");
  label.textContent = word; cap.textContent = key;
  button.append(label, cap);
  button.onclick = () => { run(action); button.blur(); };
  $("buttons").append(button);
  buttons.set(action, { button, label });
}

function drawButtons() {
  for (const [action, { button }] of buttons) {
    button.disabled = !may(action);
    button.classList.toggle("asked", answers.has(action) && may(action));
  }
  const at = state.question ? askedAt(state.question) || "Verify" : "";
  steps.forEach((button, i) => button.classList.toggle("asks", STEPS[i] === at));
  buttons.get("pause").label.textContent = state.paused ? "Resume" : "Pause";
}

const steps = STEPS.map((word, i) => {
  const button = document.createElement("button");
  button.textContent = `${i + 1} ${word}`;
  button.onclick = () => go(i);
  $("steps").append(button);
  return button;
});
function go(step) {
  state.step = (step + STEPS.length) % STEPS.length;
  steps.forEach((button, i) => button.classList.toggle("on", i === state.step));
  draw();
}

// Keys, and foot pedals that send them. What changes the operation is held, so that no touch does it.
const HELD = { y: "confirm", Enter: "confirm", n: "reject", Delete: "reject", r: "register", p: "pause" };
const AT_ONCE = {
  s: () => run("snapshot"), c: () => run("camera"), v: () => run("view"),
  PageDown: () => go(state.step + 1), PageUp: () => go(state.step - 1),
  ArrowRight: () => choose(1), ArrowLeft: () => choose(-1),
  b: () => ofCheck("begin"), k: () => ofCheck("skip"), u: () => ofCheck("undo"), e: () => ofCheck("end"),
};
const ofCheck = (verb) => { if (STEPS[state.step] === "Check") runCheck(verb); };
function choose(by) {
  const levels = state.levels?.levels.length ?? 0;
  if (STEPS[state.step] === "Check") state.checked = (state.checked + by + levels) % Math.max(1, levels);
  else state.screw = (state.screw + by + state.plan.length) % Math.max(1, state.plan.length);
  draw();
}
const holding = new Map();
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key in HELD || key in AT_ONCE || (key >= "1" && key <= String(STEPS.length))) event.preventDefault();
  if (event.repeat) return;
  if (key >= "1" && key <= String(STEPS.length)) go(Number(key) - 1);
  else if (key in AT_ONCE) AT_ONCE[key]();
  else if (key in HELD && may(HELD[key]) && !holding.has(key)) {
    const question = state.question?.id;
    const { button } = buttons.get(HELD[key]);
    button.classList.add("held");
    holding.set(key, { button, timer: setTimeout(() => {
      release(key);
      if (!answers.has(HELD[key]) || state.question?.id === question) run(HELD[key]);
    }, HOLD_MS) });
  }
});
function release(key) {
  const held = holding.get(key);
  if (!held) return;
  clearTimeout(held.timer);
  held.button.classList.remove("held");
  holding.delete(key);
}
addEventListener("keyup", (event) => release(event.key.length === 1 ? event.key.toLowerCase() : event.key));
addEventListener("blur", () => [...holding.keys()].forEach(release));

const space = new Space($("view"), $("view-name"), $("view-note"), draw);
go(0);
watch();
setInterval(watch, LOOK_MS);
addEventListener("visibilitychange", watch);
