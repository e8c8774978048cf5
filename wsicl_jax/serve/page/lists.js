/** The lists beside the panes: images, structures, and prompts on the image shown. */

import { call, image, upload } from "./api.js";
import { extendBox, removePrompt, setRole, setStructures, show } from "./session.js";
import { attempt, colourOf, entry, say, set, store, subscribe } from "./store.js";

const ROLES = ["unused", "context", "target"];
const COLOURS = ["#e4572e", "#2e86ab", "#3da35d", "#c77dff", "#f2b134", "#00b8a9", "#f25f8a", "#8a6d3b"];

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function startLists() {
  document.getElementById("scan").addEventListener("click", () =>
    attempt(async () => takeImages(await call("POST", "/api/scan"))));
  document.getElementById("add-structure").addEventListener("click", addStructure);
  startDrop();
  subscribe((keys) => {
    if (keys.has("images") || keys.has("session") || keys.has("shown")) fillImages();
    if (keys.has("session") || keys.has("structure")) fillStructures();
    if (keys.has("session") || keys.has("shown") || keys.has("volume")) fillPrompts();
  });
}

export function takeImages({ images, problems }) {
  set({ images, problems });
  document.getElementById("problems").textContent = problems.join(" ");
}

const rows = new Map(); // by image, so that pictures are not loaded again

function fillImages() {
  const list = document.getElementById("images");
  const elements = store.images.map((one) => {
    if (!rows.has(one.id)) rows.set(one.id, imageRow(one));
    const row = rows.get(one.id);
    const { role, prompts } = entry(one.id);
    row.className = `${role}${one.id === store.shown ? " shown" : ""}`;
    row.querySelector("select").value = role;
    const count = prompts.length ? ` (${prompts.length})` : "";
    row.querySelector(".name").textContent = one.name + count;
    return row;
  });
  if (elements.length !== list.children.length || elements.some((row, i) => row !== list.children[i])) {
    list.replaceChildren(...elements);
  }
}

function imageRow({ id, name }) {
  const picture = make("img", { src: `${image(id)}/thumbnail`, loading: "lazy", alt: "" });
  const button = make("button", { className: "name", title: name });
  const role = make("select", { ariaLabel: `Use of ${name}` }, ...ROLES.map((one) => new Option(one, one)));
  picture.addEventListener("click", () => show(id));
  button.addEventListener("click", () => show(id));
  role.addEventListener("change", () => setRole(id, role.value));
  const row = make("li", {}, picture, button, role);
  row.dataset.image = id;
  return row;
}

function fillStructures() {
  const list = document.getElementById("structures");
  const { structures } = store.session;
  list.replaceChildren(...structures.map((one) => {
    const colour = make("input", { type: "color", value: one.colour, ariaLabel: "Colour" });
    const name = make("input", { value: one.name, maxLength: 100, ariaLabel: "Name" });
    const remove = make("button", { className: "small", textContent: "×", title: "Remove this structure", disabled: structures.length < 2 });
    const changed = (part) => setStructures(structures.map((s) => (s === one ? { ...s, ...part } : s)));
    colour.addEventListener("change", () => changed({ colour: colour.value }));
    name.addEventListener("change", () => (name.value.trim() ? changed({ name: name.value.trim() }) : fillStructures()));
    remove.addEventListener("click", () => setStructures(structures.filter((s) => s !== one)));
    const row = make("li", { className: one.value === store.structure ? "shown" : "" }, colour, name, remove);
    row.addEventListener("pointerdown", () => set({ structure: one.value }));
    name.addEventListener("focus", () => set({ structure: one.value }));
    return row;
  }));
}

function addStructure() {
  const { structures } = store.session;
  const value = Math.max(...structures.map((one) => one.value)) + 1;
  const colour = COLOURS[(value - 1) % COLOURS.length];
  set({ structure: value });
  setStructures([...structures, { value, name: `structure ${value}`, colour }]);
}

function fillPrompts() {
  const list = document.getElementById("prompts");
  const { prompts, accepted } = entry();
  const items = prompts.map((prompt) => {
    const dot = make("span", { className: "dot" });
    dot.style.background = colourOf(prompt.structure);
    const what = make("button", { className: "what", textContent: describe(prompt), title: "Go there" });
    what.addEventListener("click", () => goTo(prompt));
    const remove = make("button", { className: "small", textContent: "×", title: "Remove this prompt" });
    remove.addEventListener("click", () => removePrompt(prompt.number));
    if (!prompt.box?.some(([low, high]) => high - low === 1)) return make("li", {}, dot, what, remove);
    const extend = make("button", { className: "small", textContent: "3D", title: "Extend the box through the slices to the crosshair" });
    extend.addEventListener("click", () => extendBox(prompt));
    return make("li", {}, dot, what, extend, remove);
  });
  if (Object.keys(accepted).length) items.push(make("li", { textContent: "accepted mask" }));
  if (!items.length) {
    items.push(make("li", { className: "hint", textContent: "none; choose a tool and draw on a slice" }));
  }
  list.replaceChildren(...items);
}

function describe({ point, box, scribble, inside }) {
  const not = inside ? "" : "not here: ";
  if (point) return `${not}point ${point.map(Math.round).join(", ")}`;
  if (box) return `box ${box.map(([low, high]) => (high - low === 1 ? low : `${low}-${high - 1}`)).join(", ")}`;
  return `${not}scribble of ${scribble.length}`;
}

function goTo({ point, box, scribble }) {
  if (!store.volume) return;
  const voxel = point ?? scribble?.[0] ?? box.map(([low, high]) => Math.floor((low + high - 1) / 2));
  set({ slice: store.volume.toDisplay(voxel).map(Math.round) });
}

function startDrop() {
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    addFiles([...event.dataTransfer.files]);
  });
}

/** Add files to the folder, one after the other. */
async function addFiles(files) {
  for (const file of files) {
    say(`Adding ${file.name} ...`);
    const added = await attempt(() => upload(file));
    if (!added) return;
    takeImages(await call("GET", "/api/images"));
    say(`Added ${file.name}.`);
  }
}
