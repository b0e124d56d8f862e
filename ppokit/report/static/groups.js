// A prompt's responses side by side, and the same prompt over the steps.
const MOST_ROWS = 40; // of the steps of one prompt

function startGroups(open) {
  const cards = byId("cards");
  if (!cards) return;
  const runs = byId("group-run"), steps = byId("group-step"), prompts = byId("group-prompt");
  let run = 0;
  const own = () => data.runs[run];
  // A group's responses, mean and best score, also of those that the page does not hold.
  const group = (step, prompt, samples) => {
    const known = scores(samples);
    return own().groups[`${step} ${prompt}`] || [samples.length, known.length ? mean(known) : null, known.length ? Math.max(...known) : null];
  };
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  const scores = (samples) => samples.map((sample) => sample.s).filter((score) => score !== undefined);
  const best = (samples) => [...samples].sort((a, b) => (b.s ?? -Infinity) - (a.s ?? -Infinity));

  const fillSteps = (step) => {
    const known = [...new Set(own().samples.map((sample) => sample.t))];
    steps.replaceChildren(...known.map((each) => el("option", { value: each }, String(each))));
    steps.value = known.includes(step) ? step : known[known.length - 1];
  };
  const fillPrompts = (prompt) => {
    const known = [...new Set(own().samples.filter((s) => s.t === Number(steps.value)).map((s) => s.g))];
    prompts.replaceChildren(...known.map((each) => el("option", { value: each }, cut(own().prompts[each].replace(/\s+/g, " "), 90))));
    prompts.value = known.includes(prompt) ? prompt : known[0];
  };

  const parts = (sample) => {
    const list = [];
    own().providers.forEach((name, i) => {
      list.push(el("dt", {}, name), el("dd", sample.w && sample.w[name] ? { class: "bad" } : {}, given(own(), sample, name, i, 120)));
    });
    if (sample.c && sample.c.length > 1) list.push(el("dt", {}, "whole reward"), el("dd", { class: "sum" }, shown(sample.y)));
    Object.entries(sample.p || {}).forEach(([name, value]) => list.push(el("dt", {}, name), el("dd", {}, typeof value === "number" ? shown(value) : cut(value, 160))));
    [["tokens", sample.n], ["advantage", sample.a], ["KL", sample.k], ["change", sample.d]].forEach(([name, value]) => {
      if (value !== undefined) list.push(el("dt", {}, name), el("dd", {}, shown(value)));
    });
    return list;
  };
  const card = (sample) => el("li", {},
    el("div", { class: "card-top" }, el("span", { class: "score" }, shown(sample.s)),
      el("span", { class: sample.o === "failed" ? "bad" : "dim" }, sample.o + (sample.u === 0 ? ", not trained on" : ""))),
    el("div", { class: "response", dir: "auto" }, sample.x || "(empty)"),
    el("dl", { class: "parts" }, ...parts(sample)),
    el("div", {}, el("button", { type: "button", onclick: () => open(run, own().samples.indexOf(sample)), "aria-label": `Tokens of the response with score ${shown(sample.s)}` }, "Tokens")));

  const show = () => {
    const prompt = Number(prompts.value), step = Number(steps.value);
    const asked = own().samples.filter((sample) => sample.g === prompt), here = asked.filter((sample) => sample.t === step);
    byId("prompt").textContent = own().prompts[prompt];
    cards.replaceChildren(...best(here).map(card));
    cards.querySelectorAll(".response").forEach((box) => {
      if (box.scrollHeight > box.clientHeight) Object.entries({ tabindex: "0", role: "region", "aria-label": "Response" }).forEach((each) => box.setAttribute(...each));
    });
    const [count] = group(step, prompt, here);
    byId("group-note").textContent = count > here.length ? `${here.length} of ${count} are here; the others are in the run's rollouts/. ` : "";
    const by = new Map();
    asked.forEach((sample) => by.set(sample.t, [...(by.get(sample.t) || []), sample]));
    const all = [...by], every = Math.ceil(all.length / MOST_ROWS);
    const listed = all.filter(([each], i) => i % every === 0 || i === all.length - 1 || each === step);
    byId("over-note").textContent = listed.length < all.length ? `${listed.length} of the ${all.length} steps of which this page holds responses to it.` : "";
    byId("over").replaceChildren(...listed.map(([each, samples]) => {
      const [first] = best(samples), [size, middle, top] = group(each, prompt, samples);
      const go = el("button", { type: "button", "aria-label": `Step ${each} of this prompt`, onclick: () => { fillSteps(each); fillPrompts(prompt); show(); } }, String(each));
      if (each === step) go.setAttribute("aria-current", "true");
      return el("tr", {}, el("th", { scope: "row" }, go), el("td", {}, shown(middle)), el("td", {}, shown(top)), el("td", {}, size > samples.length ? `${samples.length} of ${size}` : String(size)),
        el("td", { class: "excerpt", dir: "auto" }, cut(first.x.replace(/\s+/g, " "), 140) || "(empty)"));
    }));
  };
  const turn = (by) => {
    const options = prompts.options;
    if (prompts.selectedIndex + by >= 0 && prompts.selectedIndex + by < options.length) prompts.selectedIndex += by;
    else if (steps.options[steps.selectedIndex + by]) {
      steps.selectedIndex += by;
      fillPrompts();
      prompts.selectedIndex = by > 0 ? 0 : prompts.options.length - 1;
    }
    show();
  };
  steps.addEventListener("change", () => { fillPrompts(Number(prompts.value)); show(); });
  prompts.addEventListener("change", show);
  byId("group-back").addEventListener("click", () => turn(-1));
  byId("group-next").addEventListener("click", () => turn(1));
  if (runs) {
    runs.replaceChildren(...data.runs.map((each, i) => (each.samples.length ? el("option", { value: i }, each.name) : "")));
    runs.addEventListener("change", () => { run = Number(runs.value); fillSteps(); fillPrompts(); show(); });
  }
  run = data.runs.findIndex((each) => each.samples.length);
  if (runs) runs.value = run;
  fillSteps();
  const last = own().samples.filter((sample) => sample.t === Number(steps.value));
  fillPrompts(best(last)[0].g); // whose tokens the ledger opens
  show();
}
