/** Requests to the network: start, progress, cancel. */

import { call, inSession } from "./api.js";
import { addPrompt, setRole, take } from "./session.js";
import { attempt, entry, nameOf, say, set, store } from "./store.js";

const POLL_MS = [60, 120, 250, 500];
let isAskedAgain = false; // a correction arrived while its target was being segmented

/** Add a prompt to the image shown; a target that was segmented before is segmented again. */
export async function mark(prompt) {
  const isAdded = await addPrompt(prompt);
  const { role, result } = entry();
  if (isAdded && store.follow && role === "target" && result) await segmentShown();
}

/** Segment the image shown. */
export async function segmentShown() {
  const { shown } = store;
  if (!shown) return;
  if (store.job) {
    isAskedAgain = true;
    return;
  }
  if (entry().role === "unused") await setRole(shown, "target");
  if (entry().role === "context") {
    say("This is a context image. Mark it as a target to segment it.");
    return;
  }
  do {
    isAskedAgain = false;
    await run({ images: [shown] });
  } while (isAskedAgain && store.shown === shown);
}

/** Segment all targets, with their doubt. */
export async function segmentAll() {
  if (!store.job) await run({ doubt: true });
}

export async function cancel() {
  const { job } = store;
  if (job) await attempt(() => call("DELETE", `${job.base}/jobs/${job.id}`));
}

async function run(request) {
  const base = inSession(store.session);
  await attempt(async () => follow(base, await call("POST", `${base}/jobs`, request)));
}

/** Show the progress of a job until it ends; also of one that began before the page was loaded. */
export async function follow(base, begun) {
  const begin = performance.now();
  await attempt(async () => {
    let job = begun;
    let seen = job.finished.length;
    for (let round = 0; !["done", "cancelled"].includes(job.state); round += 1) {
      set({ job: { ...job, base } });
      say(progress(job));
      await new Promise((resolve) => { setTimeout(resolve, POLL_MS[Math.min(round, POLL_MS.length - 1)]); });
      job = await call("GET", `${base}/jobs/${job.id}`);
      const finished = job.finished.length + Object.keys(job.failed).length;
      if (finished > seen) await refresh(base);
      seen = finished;
    }
    await refresh(base);
    report(job, (performance.now() - begin) / 1000);
  });
  set({ job: null });
}

async function refresh(base) {
  const session = await call("GET", base);
  if (session.id === store.session.id) await take(session);
}

function progress(job) {
  const finished = job.finished.length + Object.keys(job.failed).length;
  const left = job.seconds_left === null ? "" : `, about ${Math.ceil(job.seconds_left)} s left`;
  const what = job.current === null ? "waiting for the network" : `segmenting ${nameOf(job.current)}`;
  return `${what} (${finished} of ${job.total}${left})`;
}

function report(job, seconds) {
  const failed = Object.entries(job.failed);
  if (failed.length) {
    const [id, reason] = failed[0];
    const more = failed.length > 1 ? ` (and ${failed.length - 1} more)` : "";
    say(`${nameOf(id)}: ${reason}${more}`, true);
  } else if (job.state === "cancelled") {
    say(`Cancelled after ${job.finished.length} of ${job.total}.`);
  } else {
    say(`Segmented ${job.finished.length === 1 ? nameOf(job.finished[0]) : `${job.finished.length} targets`} in ${seconds.toFixed(1)} s.`);
  }
}
