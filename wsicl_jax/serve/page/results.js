/** The table of targets, the one with most doubt first, and remarks on the target shown. */

import { make } from "./lists.js";
import { show, useAsExample } from "./session.js";
import { entry, nameOf, store, subscribe } from "./store.js";

export function startResults() {
  subscribe((keys) => {
    if (keys.has("session") || keys.has("shown") || keys.has("images")) fill();
  });
}

function fill() {
  const targets = store.images.map((one) => one.id).filter((id) => entry(id).role === "target");
  const doubt = (id) => entry(id).result?.doubt ?? -1;
  targets.sort((a, b) => doubt(b) - doubt(a));
  document.querySelector("#results tbody").replaceChildren(...targets.map(row));
  const remarks = entry().role === "target" ? entry().result?.remarks ?? [] : [];
  document.getElementById("remarks").replaceChildren(
    ...remarks.map((text) => make("li", { textContent: text })));
}

function row(id) {
  const { result } = entry(id);
  const name = make("button", { className: "name", textContent: nameOf(id) });
  name.addEventListener("click", () => show(id));
  const use = make("button", {
    className: "small",
    textContent: "accept",
    title: "Use as example: it becomes a context image with this mask",
    disabled: !result,
  });
  use.addEventListener("click", () => useAsExample(id));
  const volumes = result ? Object.values(result.volumes_ml).map((ml) => ml.toPrecision(3)).join(", ") : "";
  const doubt = result?.doubt === null || result?.doubt === undefined ? "" : result.doubt.toFixed(2);
  const element = make("tr", {}, ...[name, volumes, doubt, use].map((cell) => make("td", {}, cell)));
  element.className = `${result?.outdated ? "outdated " : ""}${id === store.shown ? "shown" : ""}`;
  if (result?.outdated) element.title = "Made before the last change of the prompts.";
  return element;
}
