"use strict";
// What all parts share: the page's data, elements whose texts are text nodes, numbers as they are shown.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children); // strings become text nodes
  return element;
}

function shown(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

// A provider's score and what it adds to the whole reward: `3 × 0.8 = 2.4`.
function part(sample, i, [weight, before] = []) {
  const score = sample.r[i], added = sample.c ? sample.c[i] : null;
  if (score === null || added === null || weight === undefined) return shown(score);
  const used = weight ? added / weight : score, changed = Math.abs(used - score) > 1e-3 * Math.max(1, Math.abs(score));
  const note = changed ? `, ${shown(score)} before ${before}` : "";
  return (weight === 1 ? shown(used) : `${shown(weight)} × ${shown(used)} = ${shown(added)}`) + note;
}

// What a provider gave for a response, or why not, and in how many seconds unless at once.
function given(run, sample, name, i, most = Infinity) {
  const why = sample.w && sample.w[name], seconds = sample.q ? sample.q[i] : null;
  const what = why ? why[0] + (why[1] ? `: ${cut(why[1], most)}` : "") : part(sample, i, run.rules[i]);
  return seconds !== null && (why || seconds >= 0.01) ? `${what} (${shown(seconds)} s)` : what;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Curves: a cursor that follows the pointer or the arrow keys, a search.
const PLOT = { left: 44, right: 310, top: 8, bottom: 130 };

function follow(plot) {
  const figure = plot.closest("figure"), svg = plot.querySelector("svg"), readout = figure.querySelector(".readout");
  const names = figure.dataset.names.split("\n");
  const [low, high] = svg.dataset.x.split(" ").map(Number);
  const lines = [];
  const only = figure.dataset.run; // a figure of one run names what it shows, one of several the runs
  data.runs.forEach((run, number) => names.forEach((name) => {
    if (!run.metrics[name] || (only !== undefined && number !== Number(only))) return;
    const [values, own = run.steps] = run.metrics[name];
    lines.push([only === undefined ? run.name : name.replace(/^time\/|_s$/g, ""), own, values]);
  }));
  const steps = [...new Set(lines.flatMap(([, own]) => own))].sort((a, b) => a - b);
  if (!steps.length) return;
  let at = steps.length - 1;
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  const show = (index) => {
    at = clamp(index, 0, steps.length - 1);
    const step = steps[at];
    const parts = lines.map(([label, own, values]) => {
      const i = own.indexOf(step), last = own[own.length - 1];
      const value = i >= 0 ? shown(values[i]) : last < step ? `– (last at step ${last})` : "–";
      return (lines.length > 1 ? `${label} ` : "") + value;
    });
    readout.textContent = `step ${step}: ${parts.join(", ")}`;
    plot.setAttribute("aria-valuenow", step);
    plot.setAttribute("aria-valuetext", readout.textContent);
    const x = PLOT.left + ((step - low) / (high - low)) * (PLOT.right - PLOT.left);
    cursor.setAttribute("d", `M${x.toFixed(1)} ${PLOT.top}V${PLOT.bottom}`);
  };
  plot.setAttribute("aria-valuemin", steps[0]);
  plot.setAttribute("aria-valuemax", steps[at]);
  show(at);
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 320;
    const step = low + ((x - PLOT.left) / (PLOT.right - PLOT.left)) * (high - low);
    let nearest = 0;
    steps.forEach((own, i) => { if (Math.abs(own - step) < Math.abs(steps[nearest] - step)) nearest = i; });
    svg.append(cursor);
    show(nearest);
  });
  plot.addEventListener("pointerleave", () => { cursor.remove(); show(steps.length - 1); });
  plot.addEventListener("blur", () => cursor.remove());
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? steps.length - 1 : move ? at + move : null;
    if (to === null) return;
    event.preventDefault();
    svg.append(cursor);
    show(to);
  });
}

function startCurves() {
  const figures = [...document.querySelectorAll("#figures > figure")];
  const followed = new Set();
  const reveal = (figure) => {
    figure.hidden = false;
    if (followed.has(figure)) return;
    followed.add(figure);
    follow(figure.querySelector(".plot"));
  };
  const search = byId("search"), all = byId("all");
  if (!search) return () => {};
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const everything = all.getAttribute("aria-pressed") === "true";
    let count = 0;
    figures.forEach((figure) => {
      const name = figure.dataset.names.toLowerCase();
      const match = words.length ? words.every((word) => name.includes(word)) : everything || "first" in figure.dataset;
      if (match) { reveal(figure); count += 1; } else figure.hidden = true;
    });
    byId("matches").textContent = words.length ? (count === 1 ? "1 metric" : `${count} metrics`) : "";
  };
  search.addEventListener("input", filter);
  all.addEventListener("click", () => {
    const pressed = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", pressed);
    all.textContent = pressed ? "Show the first ones" : "Show all";
    filter();
  });
  filter();
  return reveal;
}
