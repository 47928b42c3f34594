// The explorer: filters, ranks, prices and draws the rows of the table in its page (inference_lib/report/explorer.py).
// Without this script the page is that table. No library, no network. In three parts: the rules, the address, the page.
"use strict";

{ // A block, so that no other script of the page meets these names.

// The rules: those of inference_lib/report/choose.py, on the same rows; a test holds the two together.

const LIMITS = {
  p50: { what: "median latency", label: "Median, at most", key: "ms", unit: "ms", most: true },
  p99: { what: "p99 latency", label: "p99, at most", key: "p99", unit: "ms", most: true },
  memory: { what: "GPU memory", label: "GPU memory, at most", key: "memory", unit: "MiB", most: true },
  accuracy: { what: "accuracy", label: "Accuracy, at least", key: "accuracy", unit: "%", most: false },
};

const figures = (value, digits) => value.toLocaleString("en-US", { maximumSignificantDigits: digits });

function broken({ what, key, unit, most }, limit, row) {
  if (limit === undefined) return "";
  const value = row[key];
  if (value === null) return `${what} was not measured`;
  if (most ? value <= limit : value >= limit) return "";
  return `${what} ${figures(value, 5)} ${unit}, ${most ? "more" : "less"} than ${figures(limit, 6)} ${unit}`;
}

// Why a row does not meet the request; empty if it does.
function reason(row, wanted) {
  if (row.why) return row.why;
  const found = ["p50", "p99", "accuracy", "memory"].map((name) => broken(LIMITS[name], wanted.limits[name], row));
  if (wanted.without_python && row.python) found.push("needs Python to run");
  if (!wanted.int8 && row.calibrated) found.push("calibrated; '8 bits allowed' lets it in");
  return found.filter(Boolean).join("; ");
}

// Whether `row`, which ranks after `better`, is not clearly worse. At the same batch size the page knows; else the
// intervals of the two medians add up as the legs of a right triangle do, and where one has none, nothing can be told.
function tied(better, row, goal, sameWithin) {
  if (better.batch === row.batch) return row.ties.includes(better.number);
  if (better.low === null || row.low === null) return false;
  const half = Math.hypot(Math.log(better.high / better.low) / 2, Math.log(row.high / row.low) / 2);
  const ratio = (better.ms / row.ms) * (goal === "throughput" ? row.batch / better.batch : 1);
  return ratio * Math.exp(half) >= 1 / (1 + sameWithin);
}

// The place of each ranked row, from 1; a tie shares the place of the best row in it, that none in it is clearly worse than.
function places(ranked, goal, sameWithin) {
  const found = [];
  ranked.forEach((row, number) => {
    const first = [...new Set(found)].find((place) => tied(ranked[place - 1], row, goal, sameWithin));
    found.push(first ?? number + 1);
  });
  return found;
}

function choose(rows, wanted, sameWithin) {
  const kept = rows.filter((row) => !reason(row, wanted));
  const key = wanted.goal === "throughput" ? (row) => -row.rate : (row) => row.ms;
  const ranked = kept.sort((a, b) => key(a) - key(b));
  return { ranked, places: places(ranked, wanted.goal, sameWithin) };
}

// The rows that no other beats in both latency and images per second, the quickest first.
function paretoFront(rows) {
  const front = [];
  for (const row of rows.filter((each) => each.ms !== null).sort((a, b) => a.ms - b.ms || b.rate - a.rate)) {
    if (!front.length || row.rate > front.at(-1).rate) front.push(row);
  }
  return front;
}

// What a million images cost: the hire of the machine while one caller waits for each, at the rate of a long run, and
// the GPU's energy (mJ an image, kWh a price). Null where either was not measured but has a price.
function costPerMillion(row, perHour, perKwh) {
  if (row.rate === null || (perKwh > 0 && row.energy === null)) return null;
  return (perHour / 3600 / row.rate) * 1e6 + (perKwh > 0 ? (perKwh * row.energy) / 3600 : 0);
}

const FILTERS = ["machine", "model", "framework", "device", "precision", "batch"];

const shown = (row, filters) => FILTERS.every((key) => !filters[key] || filters[key].includes(String(row[key])));

// What of `rows` is to be seen: each with its place (and whether that is shared), its reason if it is out, its cost;
// ranked within its machine and model, and a front for each of these.
function view(rows, wanted, sameWithin) {
  const [found, groups, fronts] = [new Map(), new Map(), []];
  for (const row of rows) {
    if (!shown(row, wanted.filters)) continue;
    found.set(row, { place: null, tie: false, rank: null, reason: reason(row, wanted) });
    const name = JSON.stringify([row.machine, row.model]);
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  for (const [number, group] of [...groups.values()].entries()) {
    for (const row of group) found.get(row).group = number;
    const chosen = choose(group, wanted, sameWithin);
    chosen.ranked.forEach((row, rank) => {
      const place = chosen.places[rank];
      const tie = chosen.places.filter((other) => other === place).length > 1;
      Object.assign(found.get(row), { place, tie, rank });
    });
    if (chosen.ranked.length) fronts.push(paretoFront(chosen.ranked));
  }
  for (const [row, seen] of found) seen.cost = costPerMillion(row, wanted.perHour, wanted.perKwh);
  return { found, fronts };
}

// The address: everything that a reader chose stands behind the #, so that a view can be sent.

const plain = () => ({
  goal: "latency", limits: {}, without_python: false, int8: false, filters: {}, perHour: 1, perKwh: 0,
  sort: "place", down: false, hide: false,
});

function toAddress(wanted) {
  const said = new URLSearchParams();
  if (wanted.goal !== "latency") said.set("goal", wanted.goal);
  for (const name of Object.keys(LIMITS)) if (wanted.limits[name] !== undefined) said.set(name, wanted.limits[name]);
  for (const name of ["without_python", "int8", "down", "hide"]) if (wanted[name]) said.set(name, "yes");
  for (const key of FILTERS) for (const value of wanted.filters[key] ?? []) said.append(key, value);
  if (wanted.perHour !== 1) said.set("per_hour", wanted.perHour);
  if (wanted.perKwh) said.set("per_kwh", wanted.perKwh);
  if (wanted.sort !== "place") said.set("sort", wanted.sort);
  return said.toString();
}

function fromAddress(text) {
  const [said, wanted] = [new URLSearchParams(text.replace(/^#/, "")), plain()];
  const number = (name) => {
    const value = said.get(name) ? Number(said.get(name)) : NaN;
    return Number.isFinite(value) && value >= 0 ? value : undefined;
  };
  if (said.get("goal") === "throughput") wanted.goal = "throughput";
  for (const name of Object.keys(LIMITS)) if (number(name) !== undefined) wanted.limits[name] = number(name);
  for (const name of ["without_python", "int8", "down", "hide"]) wanted[name] = said.get(name) === "yes";
  for (const key of FILTERS) if (said.has(key)) wanted.filters[key] = said.getAll(key);
  wanted.perHour = number("per_hour") ?? 1;
  wanted.perKwh = number("per_kwh") ?? 0;
  wanted.sort = said.get("sort") ?? "place";
  return wanted;
}

// The page.

const SVG = ["svg", "g", "path", "line", "text", "title"];

function make(tag, attributes = {}, ...children) {
  const space = SVG.includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const MARKERS = {
  o: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", s: "M-3.5,-3.5h7v7h-7z", D: "M0,-5l5,5l-5,5l-5,-5z",
  "^": "M0,-4.5l4.8,8.5h-9.6z", P: "M-1.6,-4.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9v-3.2h2.9z",
};

const mark = (drawn, attributes) => make("path", { d: MARKERS[drawn.marker] ?? MARKERS.o, fill: drawn.color, ...attributes });

const named = (row) => `${row.framework} ${row.precision}, batch ${row.batch}`;

// A logarithmic scale from values to pixels, with round ticks.
function scale(values, from, to) {
  const [low, high] = [Math.log10(Math.min(...values)) - 0.06, Math.log10(Math.max(...values)) + 0.06];
  const steps = high - low > 2.5 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let decade = Math.floor(low); decade <= high; decade += 1) {
    for (const step of steps) ticks.push(Number((step * 10 ** decade).toPrecision(1)));
  }
  const place = (value) => from + ((Math.log10(value) - low) / (high - low)) * (to - from);
  return { place, ticks: ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high) };
}

const [WIDTH, HEIGHT] = [520, 340];

// One model: images per second over latency, a mark for each row, its front as a line for each machine.
function panel(model, found, fronts, drawn) {
  const rows = [...found.keys()].filter((row) => row.model === model && row.ms !== null);
  const x = scale(rows.map((row) => row.ms), 62, WIDTH - 8);
  const y = scale(rows.map((row) => row.rate), HEIGHT - 40, 10);
  const mine = fronts.filter((front) => front[0].model === model);
  const corner = (row) => `${named(row)} (${figures(row.ms, 3)} ms, ${figures(row.rate, 3)} images per second)`;
  const ends = (front) => [...new Set([front[0], front.at(-1)])].map(corner).join(" to ");
  const said = mine.map((front) => `on ${front[0].machine} ${ends(front)}`).join("; ");
  const label = `${model}: images per second over latency, ${rows.length} rows. The Pareto front: ${said || "no row meets the request"}.`;
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  const text = (where, said, anchor = "middle") => make("text", { ...where, "text-anchor": anchor }, said);
  for (const tick of x.ticks) {
    svg.append(make("line", { x1: x.place(tick), x2: x.place(tick), y1: 10, y2: HEIGHT - 40, class: "grid" }),
      text({ x: x.place(tick), y: HEIGHT - 24 }, figures(tick, 3)));
  }
  for (const tick of y.ticks) {
    svg.append(make("line", { x1: 62, x2: WIDTH - 8, y1: y.place(tick), y2: y.place(tick), class: "grid" }),
      text({ x: 56, y: y.place(tick) + 4 }, figures(tick, 3), "end"));
  }
  svg.append(text({ x: (62 + WIDTH) / 2, y: HEIGHT - 6 }, "latency of a batch, ms"));
  for (const front of mine) {
    svg.append(make("path", { class: "front", d: `M${front.map((row) => `${x.place(row.ms)},${y.place(row.rate)}`).join("L")}` }));
  }
  const best = new Set(mine.flat());
  for (const row of rows) {
    const interval = row.low === null ? "" : ` (${figures(row.low, 3)} to ${figures(row.high, 3)})`;
    const at = `translate(${x.place(row.ms)},${y.place(row.rate)})`;
    const style = found.get(row).reason ? "out" : best.has(row) ? "best" : "kept";
    const group = make("g", { class: style },
      make("title", {}, `${named(row)}, ${row.machine}: ${figures(row.ms, 4)} ms${interval}, ${figures(row.rate, 4)} images/s`));
    if (row.low !== null && best.has(row)) {
      group.append(make("line", { x1: x.place(row.low), x2: x.place(row.high), y1: y.place(row.rate), y2: y.place(row.rate), stroke: drawn[row.framework].color }));
    }
    group.append(mark(drawn[row.framework], { transform: at }));
    svg.append(group);
  }
  return make("figure", { class: "explorer-panel" }, make("figcaption", {}, model), svg);
}

// A limit: a slider that fills a field, whose number is what counts. At its loose end there is no limit.
const STEPS = 100;

function limitControl(key, rows, change) {
  const { label, unit, most } = LIMITS[key];
  const values = rows.map((row) => row[LIMITS[key].key]).filter((value) => value !== null);
  if (!values.length) return null;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const at = (step) => Number((most ? low * (high / low) ** (step / STEPS) : low + ((high - low) * step) / STEPS).toPrecision(most ? 3 : 4));
  const of = (value) => Math.round(STEPS * (most ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low)));
  const loose = most ? STEPS : 0;
  const slider = make("input", { type: "range", min: 0, max: STEPS, "aria-label": `${label}, ${unit}` });
  const field = make("input", { type: "number", min: 0, step: "any", placeholder: "any", id: `explorer-${key}` });
  const show = (value) => {
    field.value = value ?? "";
    slider.value = value === undefined ? loose : of(value);
    slider.setAttribute("aria-valuetext", value === undefined ? "no limit" : `${value} ${unit}`);
  };
  slider.addEventListener("input", () => {
    const value = Number(slider.value) === loose ? undefined : at(Number(slider.value));
    change((wanted) => { wanted.limits[key] = value; });
  });
  field.addEventListener("change", () => {
    change((wanted) => { wanted.limits[key] = field.value === "" ? undefined : Math.max(0, Number(field.value)); });
  });
  const line = make("div", { class: "explorer-limit" }, make("label", { for: field.id }, label), slider, field, unit);
  return { line, show: (wanted) => show(wanted.limits[key]) };
}

function choiceControl(type, label, get, set, change, group = null) {
  const box = make("input", { type, name: group });
  box.addEventListener("change", () => change((wanted) => set(wanted, box.checked)));
  return { line: make("label", { class: "explorer-choice" }, box, ` ${label}`), show: (wanted) => { box.checked = get(wanted); } };
}

function priceControl(label, key, change) {
  const field = make("input", { type: "number", min: 0, step: "any", id: `explorer-${key}` });
  field.addEventListener("change", () => change((wanted) => { wanted[key] = Math.max(0, Number(field.value)); }));
  return { line: make("div", {}, make("label", { for: field.id }, label), " ", field), show: (wanted) => { field.value = wanted[key]; } };
}

// Which values of a column are seen: all, until one is chosen.
function filterControl(key, rows, change) {
  const values = [...new Set(rows.map((row) => row[key]))];
  if (key === "batch") values.sort((a, b) => a - b);
  const boxes = values.map(String).map((value) => choiceControl("checkbox", value,
    (wanted) => (wanted.filters[key] ?? []).includes(value),
    (wanted, on) => {
      const others = (wanted.filters[key] ?? []).filter((each) => each !== value);
      wanted.filters[key] = on ? [...others, value] : others;
      if (!wanted.filters[key].length) delete wanted.filters[key];
    }, change));
  const summary = make("summary", {});
  const line = make("details", {}, summary, ...boxes.map((box) => box.line));
  const show = (wanted) => {
    boxes.forEach((box) => box.show(wanted));
    summary.textContent = `${key}: ${(wanted.filters[key] ?? ["all"]).join(", ")}`;
  };
  return { line, show };
}

const group = (title, controls) => make("fieldset", {}, make("legend", {}, title), ...controls.filter(Boolean).map((each) => each.line));

function start() {
  const { rows, drawn, same_within: sameWithin } = JSON.parse(document.getElementById("explorer-data").textContent);
  const table = document.querySelector("#explorer-table table");
  rows.forEach((row, number) => { row.number = number; row.line = table.tBodies[0].rows[number]; });
  let wanted = fromAddress(location.hash);

  const change = (how) => {
    how(wanted);
    history.replaceState(null, "", `#${toAddress(wanted)}`);
    show();
  };
  const goal = (value, label) => choiceControl("radio", label, (w) => w.goal === value, (w) => { w.goal = value; }, change, "goal");
  const flag = (key, label) => choiceControl("checkbox", label, (w) => w[key], (w, on) => { w[key] = on; }, change);
  const groups = {
    "What do you need?": [
      goal("latency", "the quickest answer"), goal("throughput", "the most images per second"),
      ...Object.keys(LIMITS).map((key) => limitControl(key, rows, change)),
      flag("without_python", "loaded without Python"), flag("int8", "8 bits allowed"),
    ],
    "Which rows?": [...FILTERS.map((key) => filterControl(key, rows, change)), flag("hide", "hide what does not meet the request")],
    "What does it cost?": [
      priceControl("An hour of the machine", "perHour", change), priceControl("A kWh of the GPU's energy", "perKwh", change),
    ],
  };
  const controls = Object.values(groups).flat().filter(Boolean);
  const reset = make("button", { type: "button" }, "Start again");
  reset.addEventListener("click", () => change(() => { wanted = plain(); }));
  const status = make("p", { role: "status" });
  const panels = make("div", { class: "explorer-panels" });
  const legend = make("p", { class: "explorer-legend", "aria-hidden": "true" });
  const form = make("form", {}, ...Object.entries(groups).map(([title, each]) => group(title, each)), reset);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("explorer").append(form, status, panels, legend);

  // The columns that only a script can fill: the place after the first, the cost before the note.
  const head = table.tHead.rows[0];
  head.cells[0].after(make("th", { scope: "col", "data-key": "place", class: "number" }, "place"));
  head.lastElementChild.before(make("th", { scope: "col", "data-key": "cost", class: "number" }, "cost of a million images"));
  for (const row of rows) {
    row.placeCell = make("td", { class: "number" });
    row.costCell = make("td", { class: "number" });
    row.line.cells[0].after(row.placeCell);
    row.line.lastElementChild.before(row.costCell);
  }
  const sorters = [...head.cells].filter((cell) => cell.dataset.key);
  for (const cell of sorters) {
    const button = make("button", { type: "button" }, ...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => change((w) => {
      w.down = w.sort === cell.dataset.key && !w.down;
      w.sort = cell.dataset.key;
    }));
  }

  const value = (row, seen) => (wanted.sort === "place" ? seen.rank : wanted.sort === "cost" ? seen.cost : row[wanted.sort]) ?? null;

  // Gaps come last whichever way; places are those within a machine and model.
  function order(a, b, found) {
    const [one, other] = [value(a, found.get(a)), value(b, found.get(b))];
    const within = wanted.sort === "place" ? found.get(a).group - found.get(b).group : 0;
    if (within || one === other) return within || a.number - b.number;
    if (one === null || other === null) return one === null ? 1 : -1;
    const up = typeof one === "number" ? one - other : String(one).localeCompare(String(other));
    return wanted.down ? -up : up;
  }

  function show() {
    const { found, fronts } = view(rows, wanted, sameWithin);
    controls.forEach((each) => each.show(wanted));
    const kept = [...found.values()].filter((seen) => !seen.reason).length;
    status.textContent = `${kept} of ${found.size} rows meet the request; ${found.size - kept} do not, and say why.`;
    const models = [...new Set([...found.keys()].filter((row) => row.ms !== null).map((row) => row.model))];
    panels.replaceChildren(...models.map((model) => panel(model, found, fronts, drawn)));
    const titles = [...new Set([...found.keys()].filter((row) => row.ms !== null).map((row) => row.framework))];
    legend.replaceChildren(...titles.map((title) => make("span", {},
      make("svg", { viewBox: "-6 -6 12 12", width: 12, height: 12 }, mark(drawn[title], {})), ` ${title}`)));
    for (const cell of sorters) {
      cell.setAttribute("aria-sort", cell.dataset.key !== wanted.sort ? "none" : wanted.down ? "descending" : "ascending");
    }
    for (const [row, seen] of found) {
      row.placeCell.textContent = seen.place === null ? "-" : `${seen.place}${seen.tie ? " (tie)" : ""}`;
      row.costCell.textContent = seen.cost === null ? "-" : figures(seen.cost, 3);
      row.line.lastElementChild.textContent = seen.reason || row.flags;
      row.line.classList.toggle("out", Boolean(seen.reason));
    }
    const visible = [...found.keys()].filter((row) => !(wanted.hide && found.get(row).reason));
    table.tBodies[0].replaceChildren(...visible.sort((a, b) => order(a, b, found)).map((row) => row.line));
  }

  window.addEventListener("hashchange", () => { wanted = fromAddress(location.hash); show(); });
  show();
}

if (typeof document === "undefined") {
  module.exports = { choose, costPerMillion, fromAddress, paretoFront, plain, reason, toAddress, view };
} else if (document.readyState === "loading") {
  document.addEventListener("DOMContentLoaded", start);
} else {
  start();
}

}
