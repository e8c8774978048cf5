/** Start the page: the session of the address, or the latest, or a new one. */

import { call, inSession } from "./api.js";
import { showKeys, startKeys } from "./keys.js";
import { startLists, takeImages } from "./lists.js";
import { startResults } from "./results.js";
import { cancel, follow, segmentAll, segmentShown } from "./segmenting.js";
import { redo, save, show, take, undo } from "./session.js";
import { attempt, say, set, store, subscribe } from "./store.js";
import { startViewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);

function startHeader() {
  const clicks = {
    undo, redo, save, cancel, segment: segmentShown, "segment-all": segmentAll, help: showKeys,
    "new-session": newSession, "rename-session": rename,
  };
  for (const [id, action] of Object.entries(clicks)) {
    byId(id).addEventListener("click", () => action());
  }
  document.querySelectorAll("[data-tool]").forEach((button) => {
    button.addEventListener("click", () => set({ tool: button.dataset.tool }));
  });
  byId("sessions").addEventListener("change", (event) => open(event.target.value));
  byId("opacity").addEventListener("input", (event) => set({ opacity: Number(event.target.value) }));
  for (const id of ["outline", "follow"]) {
    byId(id).checked = store[id];
    byId(id).addEventListener("change", (event) => set({ [id]: event.target.checked }));
  }
  byId("opacity").value = store.opacity;
  byId("outside").addEventListener("click", () => set({ outside: !store.outside }));
  window.addEventListener("focus", refresh);
  subscribe(fillHeader);
}

function fillHeader(keys) {
  if (keys.has("outside")) byId("outside").ariaPressed = String(store.outside);
  if (keys.has("tool")) {
    document.querySelectorAll("[data-tool]").forEach((button) => {
      button.ariaPressed = String(button.dataset.tool === store.tool);
    });
  }
  if (keys.has("session")) {
    byId("undo").disabled = !store.session.can_undo;
    byId("redo").disabled = !store.session.can_redo;
  }
  if (keys.has("job")) {
    const { job } = store;
    byId("segment").disabled = byId("segment-all").disabled = Boolean(job);
    byId("progress").hidden = byId("cancel").hidden = !job;
    if (job) byId("progress").value = (job.finished.length + Object.keys(job.failed).length) / job.total;
  }
}

async function listSessions() {
  const { sessions } = await call("GET", "/api/sessions");
  byId("sessions").replaceChildren(...sessions.map((one) =>
    new Option(one.name, one.id, false, one.id === store.session?.id)));
  return sessions;
}

async function open(id) {
  await attempt(async () => {
    const session = await call("GET", `/api/sessions/${encodeURIComponent(id)}`);
    window.location.hash = id;
    await take(session);
    await listSessions();
    if (session.jobs.length && !store.job) follow(inSession(session), session.jobs[0]);
  });
}

/** Another window, or another person, may have changed the session. */
async function refresh() {
  if (store.session && !store.job) await attempt(async () => take(await call("GET", inSession(store.session))));
}

async function newSession() {
  await attempt(async () => {
    const name = `Session ${new Date().toLocaleString("sv").slice(0, 16)}`;
    await open((await call("POST", "/api/sessions", { name })).id);
  });
}

async function rename() {
  const name = window.prompt("Name of this session", store.session.name)?.trim();
  if (!name) return;
  await attempt(async () => {
    await take(await call("PATCH", inSession(store.session), { name }));
    await listSessions();
  });
}

async function start() {
  startHeader();
  startLists();
  startResults();
  startKeys();
  startViewer();
  set({ tool: "look", outside: false });
  const info = await call("GET", "/api");
  document.title = `${info.folder} - wsicl`;
  takeImages(await call("GET", "/api/images"));
  const sessions = await listSessions();
  const asked = window.location.hash.slice(1);
  const known = sessions.find((one) => one.id === asked) ?? sessions[0];
  if (known) await open(known.id);
  else await newSession();
  if (store.images.length) await show(store.images[0].id);
  else say("There is no image in the folder. Drop files into the list of images.");
}

attempt(start);
