// The rating page. Texts are only ever set as textContent; the page's policy (Content-Security-Policy with
// Trusted Types) refuses anything else.

const token = new URLSearchParams(location.search).get("token") ?? "";
const $ = (id) => document.getElementById(id);
const RENEW_EVERY = 120_000; // milliseconds; the server's leases last 600 seconds
const LOOK_AGAIN_EVERY = 4_000;
const ANSWER_WITHIN = 8_000;
const SECOND_DIGIT_WITHIN = 1_200;

let rater = sessionStorage.getItem("rater"); // of this tab, so that two tabs may be two raters
let state = null; // what the server said last
let choice = null; // a number, or "first", "second", "tie"
let busy = false;
let digits = { typed: "", at: 0 };
let again = 0;

// ---- talking to the server

async function ask(path, body) {
  const response = await fetch(`/api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(ANSWER_WITHIN),
  });
  const said = await response.json().catch(() => ({}));
  if (response.ok) return said;
  throw Object.assign(new Error(said.error ?? `The server answered ${response.status}.`), { status: response.status });
}

// Asks until there is an answer. What is sent again has the same key, so that it counts once.
async function insist(path, body) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 5_000)) {
    try {
      const said = await ask(path, body);
      trouble(null);
      return said;
    } catch (error) {
      if (error.status >= 400 && error.status < 500) throw error;
      const what = error.status ? error.message : "The server does not answer.";
      trouble(path === "act" ? `${what} This is not saved yet; it is sent again until it is.` : what);
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

async function exclusively(work) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  try {
    await work();
  } catch (error) {
    trouble(error.message);
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

function act(kind, value = null, said = "") {
  return exclusively(async () => {
    const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
    await deliver({ rater, kind, key, item: kind === "undo" ? null : state.item.id, value });
    if (said) status(said);
  });
}

async function deliver(action) {
  sessionStorage.setItem("unsent", JSON.stringify(action)); // a reload sends it
  try {
    const now = await insist("act", action);
    if (action.kind === "flag" && state && now.item?.id !== state.item?.id) return;
    show(now, action.kind !== "flag");
  } catch (error) {
    if (error.status !== 400) throw error; // refused: see what there is to rate now
    show(await insist("state", { rater: action.rater }));
    status(error.message);
  } finally {
    sessionStorage.removeItem("unsent");
  }
}

// ---- showing

function show(now, fresh = true) {
  const same = state?.item && now.item && state.item.id === now.item.id;
  state = now;
  rater = now.rater;
  sessionStorage.setItem("rater", rater);
  $("join").hidden = true;
  $("top").hidden = false;
  progress();
  clearTimeout(again);
  $("rating").hidden = $("controls").hidden = !now.item;
  $("end").hidden = !!now.item;
  document.querySelector("main").classList.toggle("pairs", now.pairs && !!now.item);
  if (!now.item) return finish();
  again = setTimeout(renew, RENEW_EVERY);
  $("flag").setAttribute("aria-pressed", now.item.flagged);
  if (same && !fresh) return;
  digits = { typed: "", at: 0 }; // a 0 here is no second digit of a 1 there
  text($("prompt"), now.item.prompt);
  $("prompt").scrollTop = 0;
  $("responses").replaceChildren(...now.item.responses.map(card));
  const kept = JSON.parse(sessionStorage.getItem("choice") ?? "null");
  choose(now.previous ?? (kept?.item === now.item.id ? kept.choice : null));
  status("");
  scrollable();
  $("prompt-card").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function card(response, place) {
  const made = document.createElement("article");
  made.className = "card response";
  const title = document.createElement("h2");
  title.textContent = state.pairs ? `Response ${"AB"[place]}` : "Response";
  const body = document.createElement("div");
  body.className = "text";
  body.dir = "auto";
  text(body, response);
  made.append(title, body);
  if (state.pairs) {
    made.dataset.value = state.item.values[place];
    made.addEventListener("click", () => getSelection().isCollapsed && choose(made.dataset.value));
  }
  return made;
}

function text(element, said) {
  const nothing = !said.trim();
  element.classList.toggle("nothing", nothing);
  element.textContent = !nothing ? said : said ? "(only blanks)" : "(an empty response)";
}

// What scrolls can be reached by the Tab key.
function scrollable() {
  for (const element of document.querySelectorAll(".text")) {
    if (element.scrollHeight > element.clientHeight + 1 && getComputedStyle(element).overflowY === "auto")
      element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}

function progress() {
  const p = state.progress;
  const count = (n) => n.toLocaleString("en");
  $("who").textContent = rater;
  $("mine").textContent = `${count(p.mine)} rated`;
  $("all").textContent = `${count(p.done)} of ${count(p.wanted)} in all${p.raters > 1 ? ` by ${p.raters} raters` : ""}`;
  $("agreement").textContent = p.alpha === null ? "" : `agreement ${p.alpha.toFixed(2)}`;
  $("bar").max = p.wanted;
  $("bar").value = p.done;
}

function finish() {
  const p = state.progress;
  const waiting = p.done < p.wanted;
  $("end-title").textContent = waiting ? "Nothing is left for you at the moment." : "All is rated. Thank you.";
  const others = "What is left is in the hands of other raters, or waits for them. This page looks again by itself.";
  const mine = `You have rated ${p.mine.toLocaleString("en")}${p.skipped ? ` and skipped ${p.skipped}` : ""}.`;
  const parts = p.mine || p.skipped ? [mine] : [];
  if (waiting) parts.push(others);
  $("end-text").textContent = parts.join(" ");
  $("end-undo").hidden = !p.mine && !p.skipped;
  if (waiting) again = setTimeout(renew, LOOK_AGAIN_EVERY);
}

// Keeps the lease, and looks for something new.
async function renew() {
  if (busy || document.hidden || state.previous !== null) {
    again = setTimeout(renew, LOOK_AGAIN_EVERY);
    return;
  }
  try {
    const now = await ask("state", { rater, prefer: state.item?.id });
    const gone = state.item && now.item?.id !== state.item.id;
    if (!busy) show(now, false);
    if (gone) status("Others have rated that one meanwhile.");
  } catch {
    again = setTimeout(renew, LOOK_AGAIN_EVERY);
  }
}

function choose(value) {
  choice = value;
  const place = options().indexOf(value);
  $("choices").querySelectorAll("input").forEach((input, other) => (input.checked = other === place));
  for (const made of document.querySelectorAll(".response")) made.classList.toggle("chosen", made.dataset.value === value);
  if (state?.item) sessionStorage.setItem("choice", JSON.stringify({ item: state.item.id, choice }));
}

function status(said) {
  $("status").textContent = said;
}

function trouble(said) {
  $("trouble").hidden = !said;
  if ($("trouble").textContent !== (said ?? "")) $("trouble").textContent = said ?? "";
}

// ---- what raters do

function submit() {
  if (choice === null) status(state.pairs ? "Choose A, B or a tie first." : "Choose a number first.");
  else act("answer", choice);
}

const skip = () => act("skip");
const undo = () => act("undo", null, "Taken back.");
const flag = () => act("flag", !state.item.flagged, state.item.flagged ? "Not flagged." : "Flagged.");

function options() {
  if (state.pairs) return [state.item?.values[0] ?? "first", "tie", state.item?.values[1] ?? "second"];
  const [low, high] = state.scale;
  return Array.from({ length: high - low + 1 }, (_, place) => low + place);
}

function build() {
  const names = state.pairs ? ["A is better", "Tie", "B is better"] : options().map(String);
  $("choices").replaceChildren(
    ...names.map((name, place) => {
      const label = document.createElement("label");
      label.className = "choice";
      const input = document.createElement("input");
      input.type = "radio";
      input.name = "choice";
      const shown = document.createElement("span");
      shown.textContent = name;
      label.append(input, shown);
      input.addEventListener("change", () => choose(options()[place]));
      return label;
    }),
  );
  const [low, high] = state.scale;
  $("question").textContent = state.pairs ? "Which response is better?" : `How good is it? ${low} is worst, ${high} is best`;
  const keys = state.pairs
    ? [["A, 1 or \u2190", "A is better"], ["B, 2 or \u2192", "B is better"], ["T or 0", "a tie"]]
    : [[`${low} to ${high}`, high > 9 ? "choose a number; 1 then 0 for 10" : "choose a number"], ["\u2190 \u2192", "one less, one more"]];
  keys.push(["Enter", "save, and go to the next"], ["U", "undo the last one"], ["S", "skip"], ["F", "flag"], ["\u2191 \u2193", "scroll"], ["?", "this help"]);
  $("keys").replaceChildren(...keys.flatMap(([key, what]) => [["dt", key], ["dd", what]].map(([tag, said]) => {
    const made = document.createElement(tag);
    made.textContent = said;
    return made;
  })));
}

function digit(typed) {
  const now = performance.now();
  const longer = now - digits.at < SECOND_DIGIT_WITHIN ? digits.typed + typed : typed;
  const all = options();
  const found = [longer, typed].find((said) => all.some((value) => String(value).startsWith(said)));
  if (found === undefined) return status(`Numbers go from ${all[0]} to ${all.at(-1)}.`);
  digits = { typed: found, at: now };
  if (all.includes(Number(found))) choose(Number(found));
}

function step(by) {
  const all = options();
  if (state.pairs) return choose(all[by < 0 ? 0 : 2]);
  const place = all.indexOf(choice);
  choose(place < 0 ? all.at(by < 0 ? -1 : 0) : all[Math.min(Math.max(place + by, 0), all.length - 1)]);
}

addEventListener("keydown", (event) => {
  if (!state || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("help").open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "?") $("help").showModal();
  else if (key === "u") undo();
  else if (!state.item || busy) return;
  else if (key === "Enter") {
    if (event.repeat || event.target.tagName === "BUTTON") return; // the button's own
    submit();
  } else if (key === "s") skip();
  else if (key === "f") flag();
  else if (key === "ArrowLeft") step(-1);
  else if (key === "ArrowRight") step(1);
  else if (!state.pairs && /^\d$/.test(key)) digit(key);
  else if (state.pairs && "abt120".includes(key)) choose(options()[{ a: 0, 1: 0, t: 1, 0: 1, b: 2, 2: 2 }[key]]);
  else return;
  event.preventDefault();
});

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  exclusively(() => begin($("name").value));
});
$("next").addEventListener("click", submit);
$("skip").addEventListener("click", skip);
$("flag").addEventListener("click", flag);
for (const id of ["undo", "end-undo"]) $(id).addEventListener("click", undo);
// What was clicked keeps no focus: Enter is to save then, and not to press the button again.
addEventListener("click", (event) => {
  if (event.detail && state?.item && event.target.matches?.("button, input")) $("prompt-card").focus({ preventScroll: true });
}, true);
$("help-button").addEventListener("click", () => $("help").showModal());
addEventListener("resize", scrollable);
addEventListener("beforeunload", (event) => {
  if (sessionStorage.getItem("unsent")) event.preventDefault();
});

// ---- beginning

async function begin(name) {
  const kept = JSON.parse(sessionStorage.getItem("choice") ?? "null");
  const now = await insist("state", { rater: name, prefer: kept?.item });
  localStorage.setItem("name", now.rater);
  state = now;
  build();
  state = null;
  const unsent = JSON.parse(sessionStorage.getItem("unsent") ?? "null");
  if (unsent?.rater === now.rater) await deliver(unsent);
  else show(now);
}

function join() {
  $("join").hidden = false;
  $("name").value = localStorage.getItem("name") ?? "";
  $("name").focus();
}

if (rater) exclusively(() => begin(rater)).then(() => state || join());
else join();
