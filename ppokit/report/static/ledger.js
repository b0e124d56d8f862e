// The tokens of one response, coloured by a number of each.
const COLUMNS = data.columns; // by name: in words, and whether a response has its sum or its mean
const NEUTRAL = { ratio: 1 }; // where nothing has changed
const USUAL = ["advantage", "kl", "ratio", "entropy", "logprob"]; // what is shown first, where it varies

function startLedger() {
  const box = byId("tokens");
  if (!box) return () => {};
  const select = byId("colour");
  let run = 0, sample = null, at = 0, spans = [], chosen = "";
  const column = (name, tokens) => (tokens[name] === 0 ? new Array(tokens.t.length).fill(0) : tokens[name]);
  const scales = new Map();

  // The same scale for all responses of a run: the size that one number in fifty exceeds, and on which sides.
  const scale = (name) => {
    const key = `${run} ${name}`, base = NEUTRAL[name] || 0;
    if (!scales.has(key)) {
      const moves = data.runs[run].samples.flatMap((each) => (each.tk && Array.isArray(each.tk[name]) ? each.tk[name] : []))
        .filter((value) => value !== null && value !== base).map((value) => value - base);
      const sizes = moves.map(Math.abs).sort((a, b) => a - b);
      scales.set(key, { size: sizes[Math.floor(sizes.length * 0.98)] || 1, below: moves.some((move) => move < 0), above: moves.some((move) => move > 0) });
    }
    return scales.get(key);
  };
  const tint = (name, value) => {
    if (value === null || value === undefined) return "";
    const share = clamp((value - (NEUTRAL[name] || 0)) / scale(name).size, -1, 1);
    return share === 0 ? "" : `rgba(var(${share > 0 ? "--plus" : "--minus"}), ${(0.08 + 0.42 * Math.abs(share)).toFixed(3)})`;
  };

  const visible = (text) => {
    const out = [];
    for (const part of text.split(/([ \n\t])/)) {
      if (part === " ") out.push(el("span", { class: "ws" }, "·"));
      else if (part === "\n") out.push(el("span", { class: "ws" }, "↵"), "\n");
      else if (part === "\t") out.push(el("span", { class: "ws" }, "⇥"));
      else if (part) out.push(part);
    }
    return out;
  };
  const row = (name, value) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value));

  const paint = () => {
    const name = select.value, tokens = sample.tk;
    const numbers = tokens && name in tokens ? column(name, tokens) : [];
    spans.forEach((span, i) => { span.style.backgroundColor = tint(name, numbers[i]); });
    const { size, below, above } = scale(name), base = NEUTRAL[name] || 0;
    const shares = [...(below ? [-1, -0.5] : []), 0, ...(above || !below ? [0.5, 1] : [])];
    byId("scale").replaceChildren(...(name ? shares.flatMap((share, i) => {
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" }), number = shown(base + share * size);
      swatch.style.backgroundColor = tint(name, base + share * size);
      if (i === shares.length - 1) return [swatch, ` ${number}`];
      return i === 0 || share === 0 ? [`${number} `, swatch] : [swatch];
    }) : []));
  };
  const focus = (index, take) => {
    if (!spans.length) return;
    spans[at].tabIndex = -1;
    spans[at].setAttribute("aria-selected", "false");
    at = clamp(index, 0, spans.length - 1);
    spans[at].tabIndex = 0;
    spans[at].setAttribute("aria-selected", "true");
    if (take) spans[at].focus();
    const tokens = sample.tk, [text, special, id] = data.runs[run].vocabulary[tokens.t[at]];
    byId("token").replaceChildren(
      row("token", `${at + 1} of ${tokens.of || spans.length}, id ${id}${special ? ", special" : ""}`),
      el("tr", {}, el("th", { scope: "row" }, "text"), el("td", { dir: "auto" }, ...visible(text))),
      ...Object.entries(COLUMNS).filter(([name]) => name in tokens).map(([name, [label]]) => row(label, shown(column(name, tokens)[at]))),
      ...(tokens.env && tokens.env[at] ? [row("written by", "a tool or the environment: not trained on")] : []));
  };

  const fillSums = () => {
    const rows = [row("outcome", sample.o), row("score", shown(sample.s)), row("whole reward", shown(sample.y)), row("tokens", shown(sample.n))];
    data.runs[run].providers.forEach((name, i) => rows.push(row(`reward ${name}`, given(data.runs[run], sample, name, i))));
    Object.entries(sample.p || {}).forEach(([name, value]) => rows.push(row(name, typeof value === "number" ? shown(value) : value)));
    Object.entries(COLUMNS).forEach(([name, [label, how]]) => {
      if (sample.tk && sample.tk.z && name in sample.tk.z) rows.push(row(`${how} of ${label}`, shown(sample.tk.z[name])));
    });
    byId("sums").replaceChildren(...rows);
  };

  const open = (which, index, go = true) => {
    run = which;
    sample = data.runs[run].samples[index];
    const own = data.runs[run], tokens = sample.tk;
    const here = !tokens || !tokens.t ? ". Its tokens are not in this page; its text is below"
      : tokens.of ? `. The first ${tokens.t.length.toLocaleString("en")} of its ${tokens.of.toLocaleString("en")} tokens are here; sums and means are over all` : "";
    byId("ledger-sample").textContent = `${data.runs.length > 1 ? `${own.name}, ` : ""}step ${sample.t}, response ${sample.i}${here}`;
    byId("ledger-prompt").textContent = own.prompts[sample.g];
    const names = tokens ? Object.keys(COLUMNS).filter((name) => name in tokens) : [];
    select.replaceChildren(...names.map((name) => el("option", { value: name }, COLUMNS[name][0])));
    const varies = (name) => names.includes(name) && new Set(column(name, tokens)).size > 1;
    if (names.length) select.value = names.includes(chosen) ? chosen : USUAL.find(varies) || names[0];
    at = 0;
    spans = tokens && tokens.t ? tokens.t.map((position, i) => {
      const [text, special] = own.vocabulary[position];
      const kind = `token${special ? " special" : ""}${tokens.env && tokens.env[i] ? " env" : ""}`;
      const span = el("span", { class: kind, role: "option", tabindex: "-1", "aria-selected": "false" }, ...visible(text));
      span.addEventListener("pointerenter", () => focus(i, false));
      span.addEventListener("click", () => focus(i, true));
      return span;
    }) : [];
    if (spans.length) { box.setAttribute("role", "listbox"); box.replaceChildren(...spans); }
    else { box.setAttribute("role", "group"); box.replaceChildren(sample.x || "(empty)"); }
    box.tabIndex = spans.length ? -1 : 0; // a text alone scrolls by keyboard too
    box.scrollTop = 0;
    const given = byId("ledger-given");
    given.hidden = !(spans.length && own.prefill && sample.x.startsWith(own.prefill));
    given.replaceChildren(el("span", { class: "dim" }, "Given, prompts.prefill: "), own.prefill);
    byId("token").replaceChildren();
    if (spans.length) focus(0, false);
    fillSums();
    paint();
    if (go) {
      history.replaceState(null, "", `#sample-${which}-${index}`);
      byId("ledger").scrollIntoView();
      (spans[0] || box).focus({ preventScroll: true });
    }
  };
  box.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10 }[event.key];
    const to = event.key === "Home" ? 0 : event.key === "End" ? spans.length - 1 : move ? at + move : null;
    if (to === null || !spans.length) return;
    event.preventDefault();
    focus(to, true);
  });
  select.addEventListener("change", () => { chosen = select.value; paint(); });
  const first = data.runs.findIndex((own) => own.samples.length);
  if (first >= 0) {
    const samples = data.runs[first].samples, whole = samples.map((own, i) => [own, i]).filter(([own]) => own.tk);
    const last = whole.filter(([own]) => own.t === (whole.length ? whole[whole.length - 1][0].t : 0));
    const [, index] = last.reduce((a, b) => ((b[0].s ?? -Infinity) > (a[0].s ?? -Infinity) ? b : a), last[0] || [samples[0], 0]);
    open(first, index, false);
  }
  return open;
}

// A page of a run that was killed cannot know it; that no other page has taken its place tells.
function tellOverdue() {
  document.querySelectorAll(".overdue").forEach((note) => {
    const late = Date.now() / 1000 - Number(note.dataset.due), minutes = Math.floor(late / 60);
    note.hidden = late < Math.max(60, Number(note.dataset.slack));
    const ago = minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
    note.textContent = note.hidden ? "" : `The next page was due ${ago} ago: unless there is a newer one, the run has probably stopped.`;
  });
}

// Links name curves and responses that may be hidden, or not drawn yet.
tellOverdue();
setInterval(tellOverdue, 30000);
const reveal = startCurves();
const openSample = startLedger();
startPoints(openSample);
startGroups(openSample);
const plots = [...document.querySelectorAll("#figures > figure")];
// A link's text, or the same as the address bar has it, where some characters are encoded.
const figureOf = (hash) => plots.find((figure) => `#${figure.id}` === hash)
  || plots.find((figure) => el("a", { href: `#${figure.id}` }).hash === hash);
function go(hash) {
  const match = /^#sample-(\d+)-(\d+)$/.exec(hash);
  const figure = figureOf(hash);
  if (match && data.runs[match[1]] && data.runs[match[1]].samples[match[2]]) openSample(Number(match[1]), Number(match[2]));
  else if (figure) {
    reveal(figure);
    figure.scrollIntoView({ block: "center" });
    figure.querySelector(".plot").focus({ preventScroll: true });
  } else return false;
  return true;
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#sample-"], a[href^="#curve:"]');
  if (link && go(link.getAttribute("href"))) event.preventDefault();
});
window.addEventListener("hashchange", () => go(location.hash));
if (location.hash) go(location.hash);
