/** Keyboard shortcuts, and the dialog that lists them. */

import { make } from "./lists.js";
import { cancel, segmentAll, segmentShown } from "./segmenting.js";
import { redo, save, show, undo } from "./session.js";
import { set, store } from "./store.js";
import { resetView, step, zoomBy } from "./view.js";
import { axisUnderMouse } from "./viewer.js";

const SHORTCUTS = [
  ["v", "look: move the crosshair", () => set({ tool: "look" })],
  ["p", "point", () => set({ tool: "point" })],
  ["b", "box", () => set({ tool: "box" })],
  ["s", "scribble", () => set({ tool: "scribble" })],
  ["n", "not here: points and scribbles outside the structure", () => set({ outside: !store.outside })],
  ["Ctrl+z", "undo", undo],
  ["Ctrl+y", "redo", redo],
  ["Enter", "segment the image shown", segmentShown],
  ["Shift+Enter", "segment all targets", segmentAll],
  ["Escape", "cancel", cancel],
  ["Ctrl+s", "save masks and task", save],
  ["[", "previous image", () => neighbour(-1)],
  ["]", "next image", () => neighbour(1)],
  ["ArrowUp", "next slice", () => step(axisUnderMouse(), 1)],
  ["ArrowDown", "previous slice", () => step(axisUnderMouse(), -1)],
  ["+", "zoom in", () => zoomBy(1.2)],
  ["-", "zoom out", () => zoomBy(1 / 1.2)],
  ["r", "reset view and window", resetView],
  ["m", "show or hide masks and prompts", () => set({ masks: !store.masks })],
  ["?", "this list", showKeys],
];

const MOUSE = [
  ["wheel", "slices"],
  ["Ctrl+wheel", "zoom"],
  ["left button", "the tool"],
  ["right button, or Shift", "window (sideways) and level (up and down)"],
  ["middle button, or Alt", "move the image"],
  ["left button in 3D", "turn"],
];

export function startKeys() {
  const line = ([key, what]) => make("tr", {}, make("td", {}, make("kbd", { textContent: key })), make("td", { textContent: what }));
  const numbers = ["1 ... 9", "choose a structure"];
  document.querySelector("#keys table").append(...[...SHORTCUTS, numbers, ...MOUSE].map(line));
  document.addEventListener("keydown", press);
}

export function showKeys() {
  document.getElementById("keys").showModal();
}

function press(event) {
  if (event.target.matches("input, select, textarea") || document.getElementById("keys").open) return;
  // A button that has the focus takes Enter itself.
  if (event.key === "Enter" && event.target.matches("button")) return;
  const names = [];
  if (event.ctrlKey || event.metaKey) names.push("Ctrl");
  if (event.shiftKey && event.key.length > 1) names.push("Shift");
  const pressed = [...names, event.key].join("+");
  const found = SHORTCUTS.find(([key]) => key === pressed);
  const structure = /^[1-9]$/.test(pressed) && store.session?.structures[Number(pressed) - 1];
  if (structure) set({ structure: structure.value });
  if (!found || (!store.volume && ["r", "ArrowUp", "ArrowDown"].includes(pressed))) return;
  event.preventDefault();
  found[2]();
}

function neighbour(by) {
  const place = store.images.findIndex((one) => one.id === store.shown);
  show(store.images[place + by]?.id);
}
