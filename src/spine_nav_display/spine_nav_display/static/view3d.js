// SPDX-License-Identifier: Apache-2.0
// The 3D view: vertebrae, plan, bounds, screws and rods in the camera's frame, in metres.
import * as THREE from "./vendor/three.module.min.js";

const LEAST_MS = 100, LEAST_SLOW_MS = 400;  // between two drawings; the second without a GPU
const SLOW = /swiftshader|llvmpipe|software|basic render/i;

// Whether WebGL is computed by the CPU, which the navigation needs.
function isSlow() {
  const context = document.createElement("canvas").getContext("webgl2");
  const about = context?.getExtension("WEBGL_debug_renderer_info");
  const slow = !about || SLOW.test(context.getParameter(about.UNMASKED_RENDERER_WEBGL));
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return slow;
}
const VIEWS = ["as the camera sees it", "from the side", "along the planned screw"];
const LEFT = 0x6cc3ff, RIGHT = 0xff9f43, BONE = 0xd9cdb0, METAL = 0xb8c4d0, BOUND = 0xf5e14b, ROD = 0xd58cff, PROPOSED = 0xffffff;
const SCREW_M = 0.045, ROD_M = 0.00275;

const unpack = (text, kind) => new kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const vector = (p) => new THREE.Vector3(...p);
const matrix = (T) => new THREE.Matrix4().set(...T, 0, 0, 0, 1);

const CYLINDER = new THREE.CylinderGeometry(1, 1, 1, 12), SPHERE = new THREE.SphereGeometry(1, 16, 12);
const METALS = [1, 0.4].map((opacity) => new THREE.MeshLambertMaterial({ color: METAL, transparent: true, opacity }));
const ROD_METAL = new THREE.MeshLambertMaterial({ color: ROD });
const HALO = new THREE.MeshBasicMaterial({ color: BOUND, transparent: true, opacity: 0.35, depthTest: false });

// Lays a cylinder of radius and length 1 between two points.
function stretch(mesh, a, b, radius) {
  const way = new THREE.Vector3().subVectors(b, a);
  mesh.scale.set(radius, way.length(), radius);
  mesh.position.copy(a).addScaledVector(way, 0.5);
  mesh.quaternion.setFromUnitVectors(new THREE.Vector3(0, 1, 0), way.normalize());
  return mesh;
}
const rodBetween = (a, b, radius, material) => stretch(new THREE.Mesh(CYLINDER, material), a, b, radius);

// A planned screw's axis, seen through the bone.
function axis(screw, color) {
  const line = rodBetween(vector(screw.entry), vector(screw.target), 0.001, new THREE.MeshBasicMaterial({ color, depthTest: false, transparent: true }));
  line.renderOrder = 2;
  return line;
}

function label(text) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 64 });
  const context = canvas.getContext("2d");
  context.font = "bold 48px sans-serif"; context.textAlign = "center"; context.fillStyle = "#fff";
  context.strokeStyle = "#000"; context.lineWidth = 8;
  context.strokeText(text, 64, 48); context.fillText(text, 64, 48);
  const sprite = new THREE.Sprite(new THREE.SpriteMaterial({ map: new THREE.CanvasTexture(canvas), depthTest: false }));
  sprite.scale.set(0.024, 0.012, 1);
  return sprite;
}

function dispose(group) {
  group.traverse((o) => { o.geometry?.dispose(); o.material?.map?.dispose(); o.material?.dispose?.(); });
  group.removeFromParent();
}

export class Space {
  constructor(canvas, name, note, redraw) {
    Object.assign(this, { canvas, name, note, redraw, view: 0, turn: { yaw: 0, pitch: 0, zoom: 1 }, levels: new Map(), last: 0, key: "" });
    const slow = isSlow();
    this.leastMs = slow ? LEAST_SLOW_MS : LEAST_MS;
    try {
      this.renderer = new THREE.WebGLRenderer({ canvas, antialias: !slow });
    } catch {
      note.textContent = "No 3D view: this browser has no WebGL. Everything else works.";
      return;
    }
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(30, 1, 0.01, 5);
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x6a747c, 2.2));
    this.light = new THREE.DirectionalLight(0xffffff, 1.8);
    this.scene.add(this.light);
    Object.assign(this, { implants: new THREE.Group(), rods: new THREE.Group(), screws: [], rodsKey: "" });
    this.implants.matrixAutoUpdate = this.implants.visible = false;
    this.scene.add(this.implants);
    this.listen();
  }

  listen() {
    let from = null;
    this.canvas.addEventListener("pointerdown", (e) => { from = [e.clientX, e.clientY]; this.canvas.setPointerCapture(e.pointerId); });
    this.canvas.addEventListener("pointerup", () => { from = null; });
    this.canvas.addEventListener("pointermove", (e) => {
      if (!from) return;
      this.turn.yaw += (e.clientX - from[0]) * 0.008;
      this.turn.pitch = Math.max(-1.4, Math.min(1.4, this.turn.pitch + (e.clientY - from[1]) * 0.008));
      from = [e.clientX, e.clientY];
      this.key = ""; this.redraw();
    });
    this.canvas.addEventListener("wheel", (e) => {
      this.turn.zoom = Math.max(0.3, Math.min(4, this.turn.zoom * Math.exp(e.deltaY * 0.001)));
      this.key = ""; this.redraw(); e.preventDefault();
    }, { passive: false });
    addEventListener("resize", () => { this.key = ""; this.redraw(); });
  }

  next() {
    this.view = (this.view + 1) % VIEWS.length;
    this.turn = { yaw: 0, pitch: 0, zoom: 1 };
    this.key = "";
  }

  load(told) {
    if (!this.renderer) return;
    this.levels.forEach((l) => dispose(l.group));
    this.levels.clear();
    for (const [level, m] of Object.entries(told.levels ?? {})) {
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(unpack(m.vertices, Float32Array), 3));
      geometry.setIndex(new THREE.BufferAttribute(unpack(m.faces, Uint32Array), 1));
      geometry.computeVertexNormals();
      const bone = new THREE.Mesh(geometry, new THREE.MeshLambertMaterial({ color: BONE }));
      const group = new THREE.Group();
      group.matrixAutoUpdate = false; group.visible = false;
      group.add(bone);
      const name = label(level);
      name.position.copy(vector(m.centre));
      group.add(name);
      this.scene.add(group);
      this.levels.set(level, { group, bounds: [], planned: new THREE.Group(), centre: vector(m.centre) });
    }
    this.key = "";
  }

  replan(plan) {
    if (!this.renderer) return;
    for (const [level, l] of this.levels) {
      dispose(l.planned);
      l.planned = new THREE.Group();
      l.group.add(l.planned);
      l.bounds = [];
      for (const p of plan.filter((p) => p.level === level)) {
        l.planned.add(axis(p, p.side === "left" ? LEFT : RIGHT));
        for (const point of [p.entry, p.target]) {
          const ball = new THREE.Mesh(new THREE.SphereGeometry(1, 20, 14), new THREE.MeshBasicMaterial({ color: BOUND, transparent: true, opacity: 0.35, depthTest: false }));
          ball.position.copy(vector(point)); ball.renderOrder = 1;
          l.bounds.push(ball); l.planned.add(ball);
        }
      }
    }
    this.key = "";
  }

  // The planned screw that the surgeon is asked about, white, beside the one that holds.
  propose(question) {
    if (this.asked?.id === question?.id) return;
    if (this.asked) dispose(this.asked.shaft);
    this.asked = null;
    const l = question?.line && this.levels.get(question.line.level);
    if (!l) return;
    this.asked = { id: question.id, shaft: axis(question.line, PROPOSED) };
    l.group.add(this.asked.shaft);
  }

  draw(state, { guidanceTrouble, implantTrouble }) {
    if (!this.renderer) return;
    const why = guidanceTrouble(), whyImplants = implantTrouble();
    const tracked = why ? [] : state.levels.levels.filter((l) => l.T && this.levels.has(l.level));
    const screws = !whyImplants && (state.implants.T || !tracked.length) ? state.implants : null;
    const chosen = state.plan[state.screw % Math.max(1, state.plan.length)];
    this.note.textContent = tracked.length || screws ? "" : why || whyImplants || "no level is tracked";
    this.name.textContent = `3D, ${VIEWS[this.view]}${screws && !screws.T ? " (stereo)" : ""} · yellow: 95 % bound`;
    const key = JSON.stringify([tracked.map((l) => [l.level, l.T, l.tre_mm]), screws?.stamp_ns, state.question?.id, this.view, this.turn, chosen?.level, chosen?.side, this.canvas.clientWidth, this.canvas.clientHeight]);
    if (key === this.key) return;
    const now = performance.now();
    // What is gone is gone at once; the rest may wait its turn.
    const shown = `${tracked.map((l) => l.level)}${Boolean(screws)}${state.question?.id}`;
    if (shown === this.shown && now - this.last < this.leastMs) return;  // the watch comes again
    Object.assign(this, { key, last: now, shown });
    for (const [level, l] of this.levels) {
      const found = tracked.find((t) => t.level === level);
      l.group.visible = Boolean(found);
      if (!found) continue;
      l.group.matrix.copy(matrix(found.T)); l.group.matrixWorldNeedsUpdate = true;
      l.bounds.forEach((ball) => ball.scale.setScalar((found.tre_mm ?? 0) / 1000));
    }
    this.propose(state.question);
    this.place(screws);
    this.look(tracked, chosen);
    this.renderer.render(this.scene, this.camera);
  }

  // Nothing is made anew from picture to picture: a page stays open for a night.
  place(implants) {
    this.implants.visible = Boolean(implants);
    if (!implants) return;
    this.implants.matrix.copy(implants.T ? matrix(implants.T) : new THREE.Matrix4());
    this.implants.matrixWorldNeedsUpdate = true;
    while (this.screws.length < implants.screws.length) {
      const [shaft, tulip] = [0, 1].map(() => new THREE.Mesh(CYLINDER, METALS[0]));
      this.screws.push({ shaft, tulip, halo: new THREE.Mesh(SPHERE, HALO) });
      this.implants.add(...Object.values(this.screws.at(-1)));
    }
    this.screws.forEach((parts, i) => {
      const s = implants.screws[i];
      for (const part of Object.values(parts)) part.visible = Boolean(s);
      if (!s) return;
      const head = vector(s.head), along = (m) => head.clone().addScaledVector(vector(s.axis), m);
      stretch(parts.shaft, along(-SCREW_M), head, 0.003);
      stretch(parts.tulip, along(-0.008), along(0.008), 0.0065);
      parts.shaft.material = parts.tulip.material = METALS[s.seen ? 0 : 1];
      parts.halo.position.copy(head);
      parts.halo.scale.setScalar(Math.max(1e-6, s.bound_mm / 1000));
    });
    const rods = implants.rods.filter((r) => r.points.length > 1);
    const key = JSON.stringify(rods);
    if (key === this.rodsKey) return;
    this.rodsKey = key;
    dispose(this.rods);
    this.rods = new THREE.Group();
    this.implants.add(this.rods);
    for (const r of rods) {
      const curve = new THREE.CatmullRomCurve3(r.points.map(vector));
      this.rods.add(new THREE.Mesh(new THREE.TubeGeometry(curve, r.points.length, ROD_M, 8), ROD_METAL));
    }
  }

  look(tracked, chosen) {
    const box = new THREE.Box3();
    this.scene.updateMatrixWorld(true);
    for (const l of this.levels.values()) if (l.group.visible) box.expandByObject(l.group, true);
    if (this.implants.visible) this.implants.traverseVisible((o) => { if (o.isMesh) box.expandByObject(o, true); });
    if (box.isEmpty()) box.set(new THREE.Vector3(-0.05, -0.05, 0.4), new THREE.Vector3(0.05, 0.05, 0.5));
    const sphere = box.getBoundingSphere(new THREE.Sphere());
    let middle = sphere.center, back = new THREE.Vector3(0, 0, -1), up = new THREE.Vector3(0, -1, 0);
    const along = this.along(tracked);
    if (this.view === 1 && along) { back = new THREE.Vector3().crossVectors(along, back).normalize(); up = new THREE.Vector3(0, 0, -1); }
    const planned = tracked.find((l) => l.level === chosen?.level);
    let fit = 1.08;
    if (this.view === 2 && planned) {
      const T = matrix(planned.T);
      const entry = vector(chosen.entry).applyMatrix4(T);
      back = entry.clone().sub(vector(chosen.target).applyMatrix4(T)).normalize();
      middle = entry; fit = 0.45;
      if (along) up = along;
    }
    const rect = this.canvas.getBoundingClientRect();
    const width = Math.max(1, Math.round(rect.width)), height = Math.max(1, Math.round(rect.height));
    if (width !== this.width || height !== this.height) {
      Object.assign(this, { width, height });
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / height;
      this.camera.updateProjectionMatrix();
    }
    const side = new THREE.Vector3().crossVectors(up, back).normalize();
    back.applyAxisAngle(up.clone().normalize(), -this.turn.yaw).applyAxisAngle(side, -this.turn.pitch);
    const far = fit * this.turn.zoom * this.distance(box, middle, back, up);
    this.camera.up.copy(up);
    this.camera.position.copy(middle).addScaledVector(back, far);
    this.camera.lookAt(middle);
    this.light.position.copy(this.camera.position);
    this.light.target.position.copy(middle);
    this.light.target.updateMatrixWorld();
  }

  // How far back the camera must stand so that every corner of a box is in view.
  distance(box, middle, back, up) {
    const right = new THREE.Vector3().crossVectors(up, back).normalize();
    const above = new THREE.Vector3().crossVectors(back, right).normalize();
    const tangent = Math.tan((this.camera.fov * Math.PI) / 360);
    let most = 0.02;
    for (let i = 0; i < 8; i++) {
      const corner = new THREE.Vector3(i & 1 ? box.max.x : box.min.x, i & 2 ? box.max.y : box.min.y, i & 4 ? box.max.z : box.min.z).sub(middle);
      const wide = Math.max(Math.abs(corner.dot(right)) / this.camera.aspect, Math.abs(corner.dot(above)));
      most = Math.max(most, wide / tangent + corner.dot(back));
    }
    return most;
  }

  // From the caudal to the cranial end of what is tracked: levels come in the order of the case.
  along(tracked) {
    if (tracked.length < 2) return null;
    const at = (l) => this.levels.get(l.level).centre.clone().applyMatrix4(matrix(l.T));
    return at(tracked[0]).sub(at(tracked[tracked.length - 1])).normalize();
  }
}
