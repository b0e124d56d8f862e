// Three to eight multiples of 1, 2 or 5 times a power of ten between two numbers.
function roundTicks(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 3));
  const unit = [5, 2, 1].map((times) => times * power).find((each) => Math.floor(high / each) - Math.ceil(low / each) >= 2) || power;
  const ticks = [];
  for (let i = Math.ceil(low / unit); i * unit <= high; i += 1) ticks.push(Number((i * unit).toPrecision(6)));
  return ticks;
}

// Every response as a point: one number across, one up; a click or Enter opens it.
function startPoints(open) {
  const canvas = byId("cloud");
  if (!canvas) return;
  const xs = byId("points-x"), ys = byId("points-y"), chooser = byId("points-run"), note = byId("point");
  const INSET = { left: 58, right: 14, top: 12, bottom: 40 };
  let run = data.runs.findIndex((own) => own.samples.length), points = [], at = -1;

  const axes = () => {
    const own = data.runs[run];
    const known = [["step", (s) => s.t], ["score", (s) => s.s], ["whole reward", (s) => s.y], ["length, tokens", (s) => s.n],
      ["KL before the update, summed", (s) => s.k], ["change in the update, summed", (s) => s.d], ["mean advantage", (s) => s.a],
      ...own.providers.map((name, i) => [`reward ${name}`, (s) => s.r[i]])];
    return known.filter(([, of]) => own.samples.some((sample) => Number.isFinite(of(sample))));
  };

  const fill = () => {
    const names = axes().map(([name]) => name);
    [[xs, "length, tokens"], [ys, "score"]].forEach(([select, usual]) => {
      const before = select.value || usual;
      select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      select.value = names.includes(before) ? before : names[0] || "";
    });
  };

  // Twenty shades from the first step to the last.
  const shades = (style) => {
    const [early, late] = ["--early", "--late"].map((name) => style.getPropertyValue(name).split(",").map(Number));
    return Array.from({ length: 20 }, (_, k) => `rgba(${early.map((value, i) => Math.round(value + ((late[i] - value) * k) / 19)).join(",")},.75)`);
  };

  const draw = () => {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (!box.width) return;
    canvas.width = box.width * ratio;
    canvas.height = box.height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const of = Object.fromEntries(axes()), x = of[xs.value], y = of[ys.value], samples = data.runs[run].samples;
    if (!x || !y) return;
    const range = (numbers) => {
      let low = Infinity, high = -Infinity;
      numbers.forEach((number) => { low = Math.min(low, number); high = Math.max(high, number); });
      const pad = (high - low || Math.abs(high) || 1) * 0.04;
      return [low - pad, high + pad];
    };
    points = samples.map((sample, index) => ({ index, step: sample.t, vx: x(sample), vy: y(sample) }))
      .filter((point) => Number.isFinite(point.vx) && Number.isFinite(point.vy));
    const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--dim"), grid = style.getPropertyValue("--faint");
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = ink;
    if (!points.length) { pen.fillText("No response has both numbers.", INSET.left, 40); return; }
    const [x0, x1] = range(points.map((p) => p.vx)), [y0, y1] = range(points.map((p) => p.vy));
    const [s0, s1] = range(points.map((p) => p.step));
    const width = box.width - INSET.left - INSET.right, height = box.height - INSET.top - INSET.bottom;
    pen.strokeStyle = grid;
    pen.textAlign = "right";
    roundTicks(y0, y1).forEach((tick) => {
      const gy = INSET.top + (1 - (tick - y0) / (y1 - y0)) * height;
      pen.beginPath(); pen.moveTo(INSET.left, gy); pen.lineTo(INSET.left + width, gy); pen.stroke();
      pen.fillText(shown(tick), INSET.left - 8, gy + 4);
    });
    pen.textAlign = "center";
    roundTicks(x0, x1).forEach((tick) => pen.fillText(shown(tick), INSET.left + ((tick - x0) / (x1 - x0)) * width, box.height - 22));
    pen.textAlign = "center"; pen.fillText(xs.value, INSET.left + width / 2, box.height - 5);
    pen.textAlign = "left"; pen.fillText(ys.value, INSET.left + 4, INSET.top + 10);
    const colours = shades(style);
    points.forEach((point) => {
      point.x = INSET.left + ((point.vx - x0) / (x1 - x0)) * width;
      point.y = INSET.top + (1 - (point.vy - y0) / (y1 - y0)) * height;
      pen.fillStyle = colours[Math.min(19, Math.floor(((point.step - s0) / (s1 - s0)) * 20))];
      pen.beginPath(); pen.arc(point.x, point.y, 3.2, 0, 7); pen.fill();
    });
    points.sort((a, b) => a.vx - b.vx || a.vy - b.vy || a.index - b.index);
    if (at >= 0 && points[at]) {
      pen.strokeStyle = style.getPropertyValue("--ink"); pen.lineWidth = 2;
      pen.beginPath(); pen.arc(points[at].x, points[at].y, 7, 0, 7); pen.stroke();
    }
  };

  const describe = () => {
    if (!points[at]) return;
    const point = points[at], sample = data.runs[run].samples[point.index];
    note.textContent = `Step ${sample.t}, ${xs.value} ${shown(point.vx)}, ${ys.value} ${shown(point.vy)}: ${sample.x.slice(0, 140)}`;
  };
  const pick = (index) => { at = index; draw(); describe(); };
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 18 * 18;
    points.forEach((point, i) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) { best = i; least = distance; }
    });
    return best;
  };

  canvas.addEventListener("pointermove", (event) => { const i = nearest(event); if (i >= 0 && i !== at) pick(i); });
  canvas.addEventListener("click", (event) => { const i = nearest(event); if (i >= 0) { pick(i); open(run, points[i].index); } });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 25, PageDown: -25 }[event.key];
    if (event.key === "Enter" && points[at]) open(run, points[at].index);
    else if (event.key === "Home" || event.key === "End") pick(event.key === "Home" ? 0 : points.length - 1);
    else if (move) pick(clamp(at + move, 0, points.length - 1));
    else return;
    event.preventDefault();
  });
  [xs, ys].forEach((select) => select.addEventListener("change", () => { at = -1; draw(); }));
  if (chooser) {
    chooser.replaceChildren(...data.runs.map((own, i) => (own.samples.length ? el("option", { value: i }, own.name) : "")));
    chooser.value = run;
    chooser.addEventListener("change", () => { run = Number(chooser.value); at = -1; fill(); draw(); });
  }
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  fill();
  draw();
}
