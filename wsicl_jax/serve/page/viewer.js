/** The three panes and the mouse: slices, zoom, window and level, and tools that draw prompts. */

import { Pane } from "./pane.js";
import { mark } from "./segmenting.js";
import { say, set, store, subscribe } from "./store.js";
import { drawSurface, turnable } from "./surface.js";
import { step, zoomBy } from "./view.js";

const panes = {};
let isDrawn = true;
let action = null; // what the mouse does while a button is held

export function startViewer() {
  for (const name of ["axial", "coronal", "sagittal"]) {
    const canvas = document.getElementById(name);
    const pane = panes[name] = new Pane(canvas);
    canvas.addEventListener("pointerdown", (event) => press(event, pane));
    canvas.addEventListener("pointermove", (event) => move(event, pane));
    canvas.addEventListener("pointerup", (event) => release(event, pane));
    canvas.addEventListener("pointercancel", () => stop(pane));
    canvas.addEventListener("wheel", (event) => wheel(event, pane), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  turnable(document.getElementById("surface"), redraw);
  new ResizeObserver(redraw).observe(document.querySelector("main"));
  subscribe(redraw);
  subscribe((keys) => {
    if (!keys.has("tool")) return;
    Object.values(panes).forEach((pane) => pane.canvas.classList.toggle("draws", store.tool !== "look"));
  });
}

function redraw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => {
    isDrawn = true;
    Object.values(panes).forEach((pane) => pane.draw());
    drawSurface(document.getElementById("surface"));
  });
}

/** The axis into the depth of the pane under the mouse, or of the first. */
export function axisUnderMouse() {
  const pane = Object.values(panes).find((one) => one.canvas.matches(":hover"));
  return (pane ?? panes.axial).plane.w;
}

function wheel(event, pane) {
  event.preventDefault();
  if (!store.volume) return;
  if (event.ctrlKey) zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  else step(pane.plane.w, event.deltaY < 0 ? 1 : -1);
}

function press(event, pane) {
  if (!store.volume) return;
  event.preventDefault();
  pane.canvas.setPointerCapture(event.pointerId);
  const from = { x: event.clientX, y: event.clientY };
  const position = pane.position(event);
  if (event.button === 1 || (event.button === 0 && event.altKey)) {
    action = { kind: "pan", from, centre: [...store.centre] };
  } else if (event.button === 2 || event.shiftKey) {
    action = { kind: "window", from, window: [...store.window] };
  } else if (store.tool === "look") {
    action = { kind: "look" };
    look(pane, position);
  } else if (!pane.contains(position)) {
    say("This is outside the image.");
  } else {
    action = { kind: store.tool, start: position, line: [position] };
    preview(pane, position);
  }
}

function move(event, pane) {
  if (!action) return;
  const position = pane.position(event);
  const dx = event.clientX - action.from?.x;
  const dy = event.clientY - action.from?.y;
  if (action.kind === "pan") pan(pane, dx, dy);
  else if (action.kind === "window") changeWindow(dx, dy);
  else if (action.kind === "look") look(pane, position);
  else preview(pane, position);
}

function release(event, pane) {
  if (!action) return;
  const { kind, start, line } = action;
  const position = pane.position(event);
  const draft = pane.draft;
  stop(pane);
  const { volume } = store;
  if (kind === "point") {
    mark({ point: volume.toVoxel(start) });
  } else if (kind === "box") {
    const isClick = [0, 1, 2].every((d) => Math.abs(position[d] - start[d]) < 0.5);
    if (isClick) say("Hold the button and draw the box.");
    else mark({ box: volume.toVoxelRanges(draft.box) });
  } else if (kind === "scribble") {
    mark({ scribble: thinned(line).map((one) => volume.toVoxel(one)) });
  }
}

function stop(pane) {
  action = null;
  pane.draft = null;
  redraw();
}

function look(pane, position) {
  const slice = position.map((value, d) =>
    Math.min(Math.max(Math.round(value), 0), store.volume.dims[d] - 1));
  slice[pane.plane.w] = store.slice[pane.plane.w];
  set({ slice });
  say(`voxel ${store.volume.toVoxel(slice).join(", ")}: ${store.volume.value(slice).toPrecision(4)}`);
}

function pan(pane, dx, dy) {
  const { u, v } = pane.plane;
  const { spacing } = store.volume;
  const ratio = window.devicePixelRatio || 1;
  const { scale } = pane.view();
  const centre = [...action.centre];
  centre[u] -= (dx * ratio) / (spacing[u] * scale);
  centre[v] += (dy * ratio) / (spacing[v] * scale);
  set({ centre });
}

function changeWindow(dx, dy) {
  const [low, high] = action.window;
  const [first, last] = store.volume.range;
  const unit = Math.max((last - first) / 500, 1e-12);
  const width = Math.max(high - low + dx * unit, unit);
  const level = (low + high) / 2 + dy * unit;
  set({ window: [level - width / 2, level + width / 2] });
  say(`window ${width.toPrecision(4)}, level ${level.toPrecision(4)}`);
}

function preview(pane, position) {
  const { u, v, w } = pane.plane;
  const { dims } = store.volume;
  if (action.kind === "box") {
    const ranges = [null, null, null];
    for (const d of [u, v]) {
      const ends = [position[d], action.start[d]].map((value) =>
        Math.min(Math.max(Math.round(value), 0), dims[d] - 1));
      ranges[d] = [Math.min(...ends), Math.max(...ends) + 1];
    }
    ranges[w] = [store.slice[w], store.slice[w] + 1];
    pane.draft = { box: ranges };
  } else {
    if (action.kind === "scribble" && pane.contains(position)) action.line.push(position);
    pane.draft = { line: action.line };
  }
  redraw();
}

/** A line without positions that lie closer than half a voxel to the last. */
function thinned(line) {
  const kept = [line[0]];
  for (const position of line.slice(1)) {
    const last = kept[kept.length - 1];
    if (Math.hypot(...position.map((value, d) => value - last[d])) >= 0.5) kept.push(position);
  }
  return kept;
}
