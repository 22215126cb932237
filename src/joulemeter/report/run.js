"use strict";
/* The run report: everything is drawn from the JSON in the page, nothing is fetched. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const SITE = new Map(DATA.sites.map(site => [site.id, site]));
const FILLS = ["#8ecae6", "#ffd166", "#a8dadc", "#f4a6a6", "#b5e48c", "#cdb4db", "#ffc8a2", "#9bf6c9", "#e9c46a", "#bde0fe", "#d4e09b", "#f6bde2"];
const fill = site => FILLS[((site % FILLS.length) + FILLS.length) % FILLS.length];

/* ── how figures are printed ── */
const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
function si(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "unknown";
  if (value === 0) return "0 " + unit;
  const size = Number(Math.abs(value).toPrecision(3));
  const [factor, prefix] = PREFIXES.find(([f]) => size >= f) || PREFIXES[PREFIXES.length - 1];
  const scaled = value / factor, whole = Math.max(1, Math.floor(Math.log10(Math.abs(Number(scaled.toPrecision(3))))) + 1);
  return scaled.toFixed(Math.max(0, 3 - whole)) + " " + prefix + unit;
}
const joules = value => si(value, "J");
const bounds = energy => energy.low_j === null ? "interval unknown" : joules(energy.low_j) + " to " + joules(energy.high_j);
const percent = (part, whole) => whole > 0 && part !== null ? (100 * part / whole).toFixed(1) + " %" : "";
const lineOf = site => JSON.stringify([site.name, site.file, site.line]);
const ONLINE = DATA.sites.reduce((counts, site) => counts.set(lineOf(site), (counts.get(lineOf(site)) || 0) + 1), new Map());
const where = site => place(site) + (site.line > 0 && ONLINE.get(lineOf(site)) > 1 ? ":" + site.column : "");
const place = site => site.file ? site.file.split("/").pop() + (site.line > 0 ? ":" + site.line : "") : "";
function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (key === "style") Object.assign(made.style, value); else if (key in made && key !== "list") made[key] = value; else made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

/* ── theme and tip ── */
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawTimeline();
});
function showTip(text, x, y) {
  const tip = $("tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18) + "px";
}

/* ── the rail that sections below speak of ── */
let rail = DATA.rails.length ? DATA.rails[0].id : -1;
const railOf = id => DATA.rails.find(each => each.id === id);
const entryOf = (site, id) => site.rails.find(each => each.rail === id);
function chooseRail() {
  rail = Number($("rail").value);
  buildFlame(); fillSites(); fillSource();
}

/* ── power over time, spans below ── */
const canvas = $("timeline-canvas");
const T = DATA.timeline, RAIL_H = 84, ROW_H = 17, AXIS_H = 22, GAP_H = 8, LEFT = 8;
let view = [0, T.length_ns];
const lanes = T.lanes;
function laneTops() {
  let y = AXIS_H + T.rails.length * (RAIL_H + GAP_H);
  return lanes.map(lane => { const top = y; y += 16 + (lane.deepest + 1) * ROW_H + GAP_H; return top; });
}
const tops = laneTops();
const HEIGHT = (lanes.length ? tops[lanes.length - 1] + 16 + (lanes[lanes.length - 1].deepest + 1) * ROW_H + GAP_H : AXIS_H + T.rails.length * (RAIL_H + GAP_H));
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const scaleX = width => t => LEFT + (t - view[0]) / (view[1] - view[0]) * (width - 2 * LEFT);

function drawTimeline() {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio; canvas.height = HEIGHT * ratio; canvas.style.height = HEIGHT + "px";
  const pen = canvas.getContext("2d"), x = scaleX(width);
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
  const ink = colour("--ink"), soft = colour("--soft"), line = colour("--line");
  drawAxis(pen, x, width, soft, line);
  T.rails.forEach((curve, i) => drawPower(pen, x, width, curve, AXIS_H + i * (RAIL_H + GAP_H), ink, line));
  lanes.forEach((lane, i) => drawLane(pen, x, width, lane, tops[i], ink));
  describeView();
}
function drawAxis(pen, x, width, soft, line) {
  const span = view[1] - view[0], step = niceStep(span / Math.max(2, width / 130));
  pen.fillStyle = soft; pen.strokeStyle = line; pen.lineWidth = 1;
  for (let t = Math.ceil(view[0] / step) * step; t <= view[1]; t += step) {
    const at = Math.round(x(t)) + .5;
    pen.beginPath(); pen.moveTo(at, AXIS_H - 4); pen.lineTo(at, HEIGHT); pen.globalAlpha = .5; pen.stroke(); pen.globalAlpha = 1;
    if (at < width - 60) pen.fillText(si(t / 1e9, "s"), at + 3, 9);
  }
}
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  return [1, 2, 5, 10].map(k => k * power).find(k => k >= rough);
}
function drawPower(pen, x, width, curve, top, ink, line) {
  const most = Math.max(1e-9, curve.most_w), y = w => top + RAIL_H - w / most * (RAIL_H - 18);
  pen.fillStyle = colour("--gap");
  for (const [from, to] of curve.gaps) pen.fillRect(x(from), top + 16, Math.max(1, x(to) - x(from)), RAIL_H - 16);
  const [first, last] = visible(curve.t, view);
  pen.save(); pen.beginPath(); pen.rect(LEFT, top, width - 2 * LEFT, RAIL_H + 1); pen.clip();
  pen.fillStyle = colour("--band");
  for (let i = first; i < last; i++) if (curve.w[i] !== null)
    pen.fillRect(x(curve.t[i]), y(curve.high[i]), Math.max(.5, x(curve.t[i + 1]) - x(curve.t[i])), Math.max(1, y(curve.low[i]) - y(curve.high[i])));
  pen.strokeStyle = colour("--power"); pen.lineWidth = 1.5; pen.beginPath();
  let down = false;
  for (let i = first; i < last; i++) {
    if (curve.w[i] === null) { down = false; continue; }
    if (down) pen.lineTo(x(curve.t[i]), y(curve.w[i])); else pen.moveTo(x(curve.t[i]), y(curve.w[i]));
    pen.lineTo(x(curve.t[i + 1]), y(curve.w[i])); down = true;
  }
  pen.stroke(); pen.restore();
  pen.strokeStyle = line; pen.lineWidth = 1; pen.strokeRect(LEFT, top + RAIL_H + .5, width - 2 * LEFT, .01);
  pen.fillStyle = ink; pen.fillText(curve.name + " (" + curve.origin + "), up to " + si(curve.most_w, "W"), LEFT + 2, top + 8);
}
function visible(t, [from, to]) {
  let low = 0, high = t.length - 1;
  while (low < high) { const mid = (low + high + 1) >> 1; if (t[mid] <= from) low = mid; else high = mid - 1; }
  let end = low;
  while (end < t.length - 1 && t[end] < to) end++;
  return [low, end];
}
function drawLane(pen, x, width, lane, top, ink) {
  pen.fillStyle = ink; pen.fillText(lane.name + (lane.merged ? ", short spans merged" : ""), LEFT + 2, top + 8);
  for (let i = 0; i < lane.start.length; i++) {
    const from = lane.start[i], to = from + lane.took[i];
    if (to < view[0] || from > view[1]) continue;
    const left = Math.max(LEFT, x(from)), right = Math.min(width - LEFT, x(to)), y = top + 16 + lane.depth[i] * ROW_H;
    pen.fillStyle = fill(lane.site[i]);
    pen.globalAlpha = lane.count[i] > 1 ? .55 : 1;
    pen.fillRect(left, y, Math.max(.7, right - left - .5), ROW_H - 2);
    pen.globalAlpha = 1;
    if (right - left > 34) {
      pen.save(); pen.beginPath(); pen.rect(left, y, right - left - 2, ROW_H - 2); pen.clip();
      pen.fillStyle = "#14171b"; pen.fillText(spanName(lane, i), left + 3, y + ROW_H / 2 - 1); pen.restore();
    }
  }
}
const siteName = id => SITE.has(id) ? SITE.get(id).name : "site " + id;
const spanName = (lane, i) => lane.count[i] > 1 ? lane.count[i].toLocaleString("en") + " spans, mostly " + siteName(lane.site[i]) : siteName(lane.site[i]);
function zoom(factor, middle = (view[0] + view[1]) / 2) {
  const span = Math.min(T.length_ns, Math.max(100, (view[1] - view[0]) * factor)), share = (middle - view[0]) / (view[1] - view[0]);
  move(middle - share * span, span);
}
function move(from, span = view[1] - view[0]) {
  const start = Math.min(Math.max(0, from), T.length_ns - span);
  view = [start, start + span];
  drawTimeline();
}
const pan = share => move(view[0] + share * (view[1] - view[0]));
function describeView() {
  const said = T.rails.map(curve => {
    const [first, last] = visible(curve.t, view);
    let energy = 0, seen = 0;
    for (let i = first; i < last; i++) if (curve.w[i] !== null) {
      const dt = Math.min(view[1], curve.t[i + 1]) - Math.max(view[0], curve.t[i]);
      if (dt > 0) { energy += curve.w[i] * dt; seen += dt; }
    }
    return curve.name + ": mean " + (seen ? si(energy / seen, "W") : "unknown") + (seen ? ", " + joules(energy / 1e9) : "");
  });
  $("timeline-range").textContent = si(view[0] / 1e9, "s") + " to " + si(view[1] / 1e9, "s") + ". " + said.join("; ") + ".";
}
function timelineTip(event) {
  const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
  const t = view[0] + (px - LEFT) / (box.width - 2 * LEFT) * (view[1] - view[0]);
  for (let i = 0; i < T.rails.length; i++) {
    const top = AXIS_H + i * (RAIL_H + GAP_H), curve = T.rails[i];
    if (py < top || py > top + RAIL_H) continue;
    const [k] = visible(curve.t, [t, t]), gap = curve.gaps.find(([from, to]) => t >= from && t < to);
    const unseen = gap ? "not seen: " + gap[2] : t > curve.t[curve.t.length - 1] || t < curve.t[0] ? "not metered" : null;
    return unseen || (curve.w[k] === null || curve.w[k] === undefined) ? curve.name + " at " + si(t / 1e9, "s") + "\n" + (unseen || "not seen")
      : curve.name + " (" + curve.origin + ") at " + si(t / 1e9, "s") + "\n" + si(curve.w[k], "W") + " (" + si(curve.low[k], "W") + " to " + si(curve.high[k], "W") + " within this stretch)";
  }
  for (let i = 0; i < lanes.length; i++) {
    const depth = Math.floor((py - tops[i] - 16) / ROW_H), lane = lanes[i];
    if (depth < 0 || depth > lane.deepest) continue;
    const slack = (view[1] - view[0]) / box.width;
    for (let k = lane.start.length - 1; k >= 0; k--)
      if (lane.depth[k] === depth && t >= lane.start[k] - slack && t <= lane.start[k] + lane.took[k] + slack) return spanTip(lane, k);
  }
  return "";
}
function spanTip(lane, k) {
  const site = SITE.get(lane.site[k]), name = spanName(lane, k) + "\n" + si(lane.took[k] / 1e9, "s") + " from " + si(lane.start[k] / 1e9, "s");
  return site ? name + "\n" + siteSays(site) : name;
}
function siteSays(site) {
  const said = [(site.kind + " " + where(site)).trim() + ", " + site.calls.toLocaleString("en") + " calls"];
  for (const entry of site.rails) {
    const of = railOf(entry.rail);
    said.push(of.name + ": " + (entry.resolved && entry.exclusive.high_j === 0 ? "none of its own" : entry.resolved ? "own " + joules(entry.exclusive.energy_j) + " (" + bounds(entry.exclusive) + ")" : unresolved(entry)));
  }
  return said.join("\n");
}
function unresolved(entry) {
  const own = entry.exclusive;
  if (!entry.confounded_with.length) return own.low_j > 0 ? "not resolved, " + bounds(own) : "below the meter's resolution, at most " + joules(own.high_j);
  const others = entry.confounded_with.map(siteName).join(", ");
  return "not told apart from " + others + (entry.joint ? "; jointly " + joules(entry.joint.energy_j) + " (" + bounds(entry.joint) + ")" : "");
}
let drag = null;
canvas.addEventListener("pointermove", event => {
  if (drag) { move(drag.from - (event.clientX - drag.x) / canvas.clientWidth * (view[1] - view[0])); return; }
  showTip(timelineTip(event), event.clientX, event.clientY);
});
canvas.addEventListener("pointerdown", event => { drag = { x: event.clientX, from: view[0] }; canvas.setPointerCapture(event.pointerId); showTip(""); });
canvas.addEventListener("pointerup", () => { drag = null; });
canvas.addEventListener("pointerleave", () => showTip(""));
canvas.addEventListener("wheel", event => {
  if (!event.ctrlKey && !event.shiftKey && !event.altKey) return;
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoom(event.deltaY + event.deltaX < 0 ? .7 : 1 / .7, view[0] + (event.clientX - box.left) / box.width * (view[1] - view[0]));
}, { passive: false });
canvas.addEventListener("dblclick", event => zoom(.4, view[0] + event.offsetX / canvas.clientWidth * (view[1] - view[0])));
const KEYS = { "+": () => zoom(.6), "=": () => zoom(.6), "-": () => zoom(1 / .6), ArrowLeft: () => pan(-.2), ArrowRight: () => pan(.2), "0": () => move(0, T.length_ns), Home: () => move(0, T.length_ns) };
canvas.addEventListener("keydown", event => { if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); } });
for (const [id, key] of [["zoom-in", "+"], ["zoom-out", "-"], ["pan-left", "ArrowLeft"], ["pan-right", "ArrowRight"], ["zoom-all", "0"]])
  $(id).addEventListener("click", KEYS[key]);
addEventListener("resize", () => { drawTimeline(); });

/* ── flame graph ── */
let flameRoot = null, flameTop = null;
const KEEPS = { all: () => true, line: site => Boolean(site.file), call: site => site.kind === "call" || site.kind === "span" || site.kind === "run",
  module: site => site.kind === "module" || site.kind === "run", operator: site => site.kind === "operator" || site.kind === "run", kernel: site => site.kind === "kernel" || site.kind === "run" };
function buildFlame() {
  const tree = DATA.tree, group = $("group").value, keep = KEEPS[group], own = tree.energy_j[rail] || [];
  const whole = railOf(rail);
  flameRoot = { name: whole ? whole.name : "no rail", site: null, own: 0, unknown: 0, kids: new Map(), parent: null };
  const at = [];
  for (let i = 0; i < tree.site.length; i++) {
    const above = tree.parent[i] < 0 ? flameRoot : at[tree.parent[i]], site = SITE.get(tree.site[i]);
    if (site && !keep(site)) at[i] = above;
    else {
      const key = !site ? "less" : group === "line" ? site.file + ":" + site.line : site.id;
      const name = !site ? "smaller calls, merged" : group === "line" ? place(site) : site.name;
      if (!above.kids.has(key)) above.kids.set(key, { name, site: site || null, own: 0, unknown: 0, kids: new Map(), parent: above });
      at[i] = above.kids.get(key);
    }
    if (own[i] === null || own[i] === undefined) at[i].unknown++; else at[i].own += Math.max(0, own[i]);
  }
  if (whole) for (const [name, value] of [["idle", whole.idle_j], ["unattributed", whole.unattributed_j]])
    if (value > 0) flameRoot.kids.set(name, { name, site: null, own: value, unknown: 0, kids: new Map(), parent: flameRoot });
  sumUp(flameRoot);
  flameTop = flameRoot;
  drawFlame();
}
function sumUp(root) {
  const order = [root];
  for (let i = 0; i < order.length; i++) order.push(...order[i].kids.values());
  for (const node of order) { node.sum = node.own; node.missing = node.unknown; }
  for (const node of order.reverse()) if (node.parent) { node.parent.sum += node.sum; node.parent.missing += node.missing; }
}
function drawFlame() {
  const frames = $("frames"), rows = [];
  frames.textContent = "";
  if ($("measure").value === "exclusive") layFlat(rows); else layNested(rows);
  const deepest = rows.reduce((most, row) => Math.max(most, row.depth), 0);
  frames.style.height = (deepest + 1) * 25 + "px";
  rows.forEach((row, i) => frames.append(frameButton(row, i)));
  $("flame-back").disabled = flameTop === flameRoot;
  const missing = flameTop.missing ? " " + flameTop.missing + " chains of calls are not known and not drawn." : "";
  $("flame-says").textContent = flameTop.name + ": " + joules(flameTop.sum) + (flameTop === flameRoot ? "" : ", " + percent(flameTop.sum, flameRoot.sum) + " of " + flameRoot.name)
    + ". " + rows.length + " boxes drawn, " + rows.narrow + " too narrow to draw." + missing;
}
const NARROW = .0015;
function layNested(rows) {
  rows.narrow = 0;
  const lay = (node, left, width, depth) => {
    rows.push({ node, left, width, depth });
    let x = left;
    for (const kid of [...node.kids.values()].sort((a, b) => b.sum - a.sum)) {
      const wide = flameTop.sum > 0 ? kid.sum / flameTop.sum : 0;
      if (wide >= NARROW) lay(kid, x, wide, depth + 1); else rows.narrow++;
      x += wide;
    }
  };
  lay(flameTop, 0, 1, 0);
}
function layFlat(rows) {
  const sums = new Map();
  const walk = node => {
    const key = node.site ? node.site.id : node.name;
    if (!sums.has(key)) sums.set(key, { ...node, kids: new Map(), sum: 0 });
    sums.get(key).sum += node.own;
    node.kids.forEach(walk);
  };
  walk(flameTop);
  rows.narrow = 0;
  let left = 0;
  for (const node of [...sums.values()].sort((a, b) => b.sum - a.sum)) {
    const width = flameTop.sum > 0 ? node.sum / flameTop.sum : 0;
    if (width >= NARROW) rows.push({ node, left, width, depth: 0 }); else rows.narrow++;
    left += width;
  }
}
function frameButton({ node, left, width, depth }, index) {
  const words = node.name + ", " + joules(node.sum) + ($("measure").value === "exclusive" ? " own" : " with what it calls, " + joules(node.own) + " own") + ", " + percent(node.sum, flameRoot.sum);
  const button = make("button", { type: "button", tabIndex: index ? -1 : 0, style: { left: 100 * left + "%", width: 100 * width + "%", top: depth * 25 + "px",
    background: node.site ? fill(node.site.id) : node.name === "idle" ? "#c3c9d1" : node.name === "unattributed" ? "#f0b0b0" : "#dfe3e8" } }, width * $("frames").clientWidth < 30 ? "" : node.name);
  button.setAttribute("aria-label", words);
  const tip = () => words + (node.site ? "\n" + siteSays(node.site) : "");
  button.addEventListener("pointermove", event => showTip(tip(), event.clientX, event.clientY));
  button.addEventListener("pointerleave", () => showTip(""));
  button.addEventListener("focus", () => { const box = button.getBoundingClientRect(); if (button.matches(":focus-visible")) showTip(tip(), box.left, box.bottom - 10); });
  button.addEventListener("blur", () => showTip(""));
  button.addEventListener("click", () => { if (node.kids.size && node !== flameTop) zoomFlame(node); });
  button.addEventListener("keydown", event => stepFlame(event, button));
  return button;
}
function zoomFlame(node) { flameTop = node; showTip(""); drawFlame(); $("frames").firstChild.focus(); }
function stepFlame(event, button) {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape" && flameTop.parent) { zoomFlame(flameTop.parent); return; }
  if (!step) return;
  event.preventDefault();
  const all = [...$("frames").children], next = all[(all.indexOf(button) + step + all.length) % all.length];
  button.tabIndex = -1; next.tabIndex = 0; next.focus();
}

/* ── table of sites ── */
const COLUMNS = [
  ["Site", (site) => site.name.toLowerCase(), "ascending"], ["Kind", site => site.kind, "ascending"], ["Calls", site => site.calls],
  ["Own time", site => site.exclusive_s], ["Own energy", (site, entry) => entry.exclusive.energy_j],
  ["With calls", (site, entry) => entry.inclusive.energy_j], ["Own per call", (site, entry) => site.calls ? entry.exclusive.energy_j / site.calls : null], ["Share", (site, entry) => entry.exclusive.energy_j],
];
let sorted = [4, "descending"], shown = 200;
function fillHeads() {
  $("site-heads").append(...COLUMNS.map(([name, , first], i) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      const flip = { ascending: "descending", descending: "ascending" };
      sorted = [i, sorted[0] === i ? flip[sorted[1]] : first || "descending"];
      fillSites();
    });
    return make("th", { scope: "col" }, button);
  }));
}
function fillSites() {
  const wanted = $("filter").value.toLowerCase(), whole = railOf(rail);
  const rows = DATA.sites.map(site => [site, entryOf(site, rail)]).filter(([site, entry]) => entry
    && (site.name + " " + site.file + ":" + site.line + " " + site.function + " " + site.kind).toLowerCase().includes(wanted));
  const value = COLUMNS[sorted[0]][1], sign = sorted[1] === "ascending" ? 1 : -1;
  const known = v => v !== null && v !== undefined && !Number.isNaN(v);
  rows.sort((a, b) => { const x = value(...a), y = value(...b); return known(x) !== known(y) ? (known(x) ? -1 : 1) : sign * (x < y ? -1 : x > y ? 1 : 0); });
  const body = $("site-rows");
  body.textContent = "";
  for (const [site, entry] of rows.slice(0, shown)) body.append(siteRow(site, entry, whole));
  [...$("site-heads").children].forEach((head, i) => { if (i === sorted[0]) head.setAttribute("aria-sort", sorted[1]); else head.removeAttribute("aria-sort"); head.firstChild.textContent = COLUMNS[i][0] + (i === sorted[0] ? (sorted[1] === "ascending" ? " ▲" : " ▼") : ""); });
  $("site-count").textContent = rows.length > shown ? "First " + shown + " of " + rows.length + " sites." : rows.length + " of " + DATA.sites.length + " sites.";
  $("site-more").hidden = rows.length <= shown;
}
function siteRow(site, entry, whole) {
  const own = entry.exclusive, all = entry.inclusive, cell = (text, below) => make("td", {}, text, ...(below ? [make("small", { className: below.length < 24 ? "keep" : "" }, below)] : []));
  const name = make("th", { scope: "row", className: "left" }, make("code", {}, site.name), " ", make("span", { className: "soft" }, where(site)));
  const elsewhere = entry.resolved && own.high_j === 0;
  const energy = elsewhere ? "none of its own" : entry.resolved ? joules(own.energy_j) : entry.confounded_with.length ? "not told apart" : own.low_j > 0 ? "not resolved" : "below resolution";
  const range = elsewhere ? "" : entry.resolved ? bounds(own) : unresolved(entry).replace(/^below the meter's resolution, |^not told apart |^not resolved, /, "");
  return make("tr", {}, name, cell(site.kind), cell(site.calls.toLocaleString("en")), cell(si(site.exclusive_s, "s")), cell(energy, range),
    all.high_j === 0 && elsewhere ? cell("") : cell(joules(all.energy_j), bounds(all)), cell(entry.resolved && !elsewhere && site.calls && own.energy_j !== null ? joules(own.energy_j / site.calls) : ""), cell(elsewhere ? "" : percent(own.energy_j, whole.energy_j)));
}

/* ── source ── */
function fillSource() {
  const body = $("lines");
  if (!body) return;
  body.textContent = "";
  const file = DATA.sources[Number($("source-file").value)];
  const near = new Set(), energy = (file.lines[rail] || {}), most = Math.max(1e-30, ...Object.values(energy).map(e => e.energy_j || 0));
  for (const key of Object.keys(energy)) for (let n = Number(key) - 5; n <= Number(key) + 5; n++) near.add(n);
  let cut = false;
  file.text.forEach((text, i) => {
    const number = i + 1;
    if (!$("whole-file").checked && !near.has(number)) { cut = true; return; }
    if (cut) { body.append(make("tr", { className: "cut" }, make("td", {}, "⋮"), make("td"), make("td"), make("td"))); cut = false; }
    const here = energy[number], row = make("tr", { className: here ? "hot" : "" });
    if (here) row.style.setProperty("--share", 100 * (here.energy_j || 0) / most + "%");
    row.append(make("td", { className: "soft" }, String(number)), make("td", {}, here ? joules(here.energy_j) : ""), make("td", { className: "soft" }, here ? bounds(here) + (here.doubtful ? " ?" : "") : ""), make("td", { className: "code" }, text || " "));
    body.append(row);
  });
}

/* ── begin ── */
fillHeads();
$("rail").addEventListener("change", chooseRail);
$("group").addEventListener("change", buildFlame);
$("measure").addEventListener("change", drawFlame);
$("flame-back").addEventListener("click", () => { if (flameTop.parent) zoomFlame(flameTop.parent); });
$("filter").addEventListener("input", fillSites);
$("site-more").addEventListener("click", () => { shown = Infinity; fillSites(); });
if ($("lines")) { $("source-file").addEventListener("change", fillSource); $("whole-file").addEventListener("change", fillSource); }
drawTimeline(); buildFlame(); fillSites(); fillSource();
document.documentElement.dataset.ready = "yes";
