/** Changes of the session, each saved by the service before it counts. */

import { call, image, inSession, voxels } from "./api.js";
import { attempt, entry, nameOf, say, set, store } from "./store.js";
import { resetView } from "./view.js";
import { Volume } from "./volume.js";

const KEPT_VOLUMES = 6;
const volumes = new Map(); // by image, the last used at the end
let labelsShown = ""; // which label map is loaded

/** Take over a session as the service describes it. */
export function take(session) {
  set({ session });
  if (!session.structures.some((one) => one.value === store.structure)) {
    set({ structure: session.structures[0].value });
  }
  return loadLabels();
}

/** Show an image. */
export async function show(id) {
  if (id === undefined) return;
  set({ shown: id });
  say(`Loading ${nameOf(id)} ...`);
  const volume = await attempt(() => loaded(id));
  if (store.shown !== id) return; // another was chosen meanwhile
  set({ volume: volume ?? null, labels: null });
  labelsShown = "";
  if (!volume) return;
  resetView();
  say(nameOf(id));
  await loadLabels();
}

async function loaded(id) {
  let volume = volumes.get(id);
  if (!volume) {
    const [geometry, values] = await Promise.all([call("GET", image(id)), voxels(`${image(id)}/voxels`)]);
    volume = new Volume(geometry, values);
  }
  volumes.delete(id);
  volumes.set(id, volume);
  if (volumes.size > KEPT_VOLUMES) volumes.delete(volumes.keys().next().value);
  return volume;
}

/** Load the mask that belongs to the image shown, if it is another one than before. */
async function loadLabels() {
  const { shown, session } = store;
  if (!shown || !session) return;
  const { result, accepted, role } = entry();
  const kind = role === "context" ? (Object.keys(accepted).length ? "example" : null) : (result ? "result" : null);
  const key = [session.id, shown, kind, kind && JSON.stringify({ ...result, outdated: 0 })].join();
  if (key === labelsShown) return;
  labelsShown = key;
  const labels = kind && await attempt(() => voxels(`${inSession(session, shown)}/${kind}/voxels`));
  if (key === labelsShown) set({ labels: labels ?? null });
}

export async function setRole(id, role) {
  await attempt(async () => take(await call("PUT", `${inSession(store.session, id)}/role`, { role })));
}

/** Add a prompt of the chosen structure to the image shown; says whether it was added. */
export function addPrompt(prompt) {
  const { shown, session } = store;
  return attempt(async () => {
    if (entry().role === "unused") await setRole(shown, "context");
    const body = { structure: store.structure, inside: Boolean(prompt.box) || !store.outside, ...prompt };
    const answer = await call("POST", `${inSession(session, shown)}/prompts`, body);
    await take(answer.session);
    return true;
  });
}

/** Let a box on one slice reach through the slices to the crosshair. */
export async function extendBox({ number, structure, box }) {
  const { volume, slice, shown, session } = store;
  const ranges = volume.toDisplayRanges(box).map(([low, high], d) =>
    (high - low === 1 ? [Math.min(low, slice[d]), Math.max(high, slice[d] + 1)] : [low, high]));
  const base = `${inSession(session, shown)}/prompts`;
  await attempt(async () => {
    await call("POST", base, { structure, box: volume.toVoxelRanges(ranges) });
    await take(await call("DELETE", `${base}/${number}`));
  });
}

export async function removePrompt(number) {
  const path = `${inSession(store.session, store.shown)}/prompts/${number}`;
  await attempt(async () => take(await call("DELETE", path)));
}

export async function undo() {
  await attempt(async () => take(await call("POST", `${inSession(store.session)}/undo`)));
}

export async function redo() {
  await attempt(async () => take(await call("POST", `${inSession(store.session)}/redo`)));
}

export async function setStructures(structures) {
  const path = `${inSession(store.session)}/structures`;
  await attempt(async () => take(await call("PUT", path, { structures })));
}

export async function useAsExample(id) {
  await attempt(async () => {
    await take(await call("POST", `${inSession(store.session, id)}/example`));
    say(`${nameOf(id)} is a context image now. Results of other targets can be made again.`);
  });
}

export async function save() {
  await attempt(async () => {
    const saved = await call("POST", `${inSession(store.session)}/save`, { format: document.getElementById("format").value });
    const command = saved.command ? ` On a cluster: ${saved.command}` : "";
    say(`Saved ${saved.files.length} files in ${saved.folder}.${command}`);
  });
}
