"use strict";
// The page only draws: what is compared and judged comes from the server (handlers/console/*.py). Three kinds of event: `hello` once,
// `tick` every two seconds, `books` (facilities and views) when they have changed.
const at = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const few = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const SILENCE_MS = 8000;
const DRAW_MS = 1500;
const FACILITIES_FIRST = 8;
const state = { hello: null, tick: null, books: null, points: [], tickedAt: 0, heardAt: 0, drawnAt: 0, allFacilities: false };

// Small tools

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A number that is small is shown more exactly.
const rate = (value) => (value === null || value === undefined ? "–" : (value < 10 ? few : count).format(value));
const ms = (value) => (value === null || value === undefined ? "–" : `${value < 10 ? value.toFixed(2) : count.format(value)} ms`);
const many = (number, one, more) => `${count.format(number)} ${number === 1 ? one : more}`;
const clock = (moment) => new Date(moment).toLocaleTimeString([], { hour12: false });
const serverNow = () => (state.tick ? state.tick.at + (Date.now() - state.tickedAt) : Date.now());

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return whole < 172800 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} days`;
}

const ago = (moment) => (moment === null ? "never" : `${span((serverNow() - moment) / 1000)} ago`);

function countdown(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// Rows by key: what is there stays, so that nothing flickers and a selection is not lost.
function rows(table, items, key, cells) {
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  items.forEach((item, place) => {
    const name = String(key(item));
    const row = known.get(name) ?? make("tr", { "data-key": name });
    known.delete(name);
    cells(item).forEach((cell, number) => {
      const old = row.cells[number];
      if (!old) row.append(cell);
      else if (!old.isEqualNode(cell)) old.replaceWith(cell);
    });
    if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
  });
  known.forEach((row) => row.remove());
}

const head = (name, below) => make("th", { scope: "row" }, name, below ? make("small", {}, below) : null);
const cell = (content, kind) => make("td", { class: kind }, content);

// In place of a table: what is not there, and what would bring it. Between backticks stand commands.
function empty(id, words) {
  const place = at(`${id}-empty`);
  place.hidden = !words;
  if (place.textContent !== words.replaceAll("`", "")) {
    place.replaceChildren(...words.split("`").map((part, number) => (number % 2 ? make("code", {}, part) : part)));
  }
  at(`${id}-table`).parentElement.hidden = Boolean(words);
}

function meter(words, share, kind = "") {
  const filled = make("i");
  filled.style.width = `${Math.round(Math.min(Math.max(share, 0), 1) * 100)}%`;
  return make("div", { class: `meter ${kind}` }, make("b", {}, words), make("span", { class: "track", "aria-hidden": "true" }, filled));
}

function spark(values) {
  const space = "http://www.w3.org/2000/svg";
  const image = document.createElementNS(space, "svg");
  const most = 1.15 * Math.max(...values, 1);
  image.setAttribute("class", "spark");
  image.setAttribute("viewBox", "0 0 100 26");
  image.setAttribute("preserveAspectRatio", "none");
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", `up to ${rate(Math.max(...values, 0))} requests a second`);
  if (values.length > 1) {
    const line = document.createElementNS(space, "path");
    const points = values.map((value, place) => `${((100 * place) / (values.length - 1)).toFixed(1)} ${(24 - (22 * value) / most).toFixed(1)}`);
    line.setAttribute("d", `M${points.join("L")}`);
    image.append(line);
  }
  return image;
}

// The parts of the page

function showNow(tick) {
  const found = tick.findings;
  const health = found.length === 0 ? "well" : found.some((one) => one.weight === "bad") ? "bad" : "look";
  at("health").dataset.state = health;
  text(at("now-title"), health === "well" ? "All is well" : `${many(found.length, "thing needs", "things need")} a look`);
  const items = found.map((one) => make("li", { class: one.weight }, make("a", { href: `#${one.where}` }, one.text)));
  const list = at("findings");
  if (list.children.length !== items.length || items.some((item, place) => !item.isEqualNode(list.children[place]))) list.replaceChildren(...items);
  text(at("now-text"), `Figures of the last ${span(tick.span_s)}, unless it says otherwise`);
  document.title = health === "well" ? "Sluice console" : `(${found.length}) Sluice console`;
  const { point, answers, tenants } = tick;
  const both = point.channel === null ? null : point.channel + point.direct;
  text(at("rate"), rate(both));
  text(at("rate-note"), both === null ? "" : `${rate(point.channel)} by channel, ${rate(point.direct)} direct`);
  text(at("p99"), ms(point.p99));
  text(at("p99-note"), point.p99 === null ? "too few requests to tell" : `median ${ms(point.p50)}, last 10 s`);
  const bad = answers.refused + answers.failed;
  text(at("bad"), count.format(bad));
  at("bad").parentElement.className = bad ? "bad" : "";
  text(at("bad-note"), `of ${many(bad + answers.answered, "answer", "answers")}`);
  text(at("warm"), count.format(tenants.number));
  const { server } = tick;
  const cpu = server.cpu === null ? "" : `${server.cpu.toFixed(2)} of a core, `;
  const { version, base_url } = state.hello ?? {};
  text(at("foot"), `Sluice ${version} at ${base_url}. Its processes use ${cpu}${count.format(server.memory_mb)} MB; the event loop is ${ms(server.lag_p99)} late (p99).`);
}

function showTenants(tick) {
  const { rows: tenants, number, waiting } = tick.tenants;
  const off = state.hello?.channels === "off";
  empty("tenants", tenants.length ? "" : off
    ? "Channels are off on this server (SLUICE_CHANNELS=off): every request goes direct."
    : "No tenant is warm. A tenant that is about to be busy asks for it with its key: `POST /warm-up`. Until then its requests go direct.");
  showCountdowns();
  const more = number - tenants.length;
  const left = more > 0 ? ` The ${many(tenants.length, "busiest is", "busiest are")} shown, ${count.format(more)} more are warm.` : "";
  text(at("tenants-text"), tenants.length ? `${many(waiting, "request waits", "requests wait")} in channels of this server.${left}` : "");
}

// Between two ticks the seconds are counted here.
function showCountdowns() {
  if (!state.tick) return;
  const passed = (Date.now() - state.tickedAt) / 1000;
  const tenants = state.tick.tenants.rows;
  const cooldown = state.hello?.cooldown_s ?? 600;
  rows(at("tenants-table"), tenants, (one) => one.name, (one) => {
    const left = one.left_s - passed;
    const cools = one.state === "warm" ? meter(countdown(left), left / cooldown, left < 60 ? "soon" : "") : make("span", { class: "tag" }, one.state);
    return [
      head(one.name),
      cell(cools, "words"),
      cell(one.depth === null ? "–" : count.format(one.depth), one.depth >= (state.hello?.queue_size ?? 256) ? "attention" : ""),
      cell(rate(one.rate)),
      cell(spark(one.rates), "words more"),
      cell(one.generation === null ? "–" : String(one.generation), "more"),
    ];
  });
  const next = tenants.reduce((least, one) => (one.state === "warm" && one.left_s < (least?.left_s ?? Infinity) ? one : least), null);
  text(at("warm-note"), next ? `next cools in ${countdown(next.left_s - passed)}` : "all requests go direct");
}

const WORDS = { better: "faster", worse: "slower", none: "alike", unknown: "too few to tell" };

function showComparison(tick) {
  const { verdict, operations, arms } = tick.comparison;
  text(at("verdict"), verdict.text);
  at("verdict").dataset.judgement = verdict.judgement;
  const share = few.format((state.hello?.control_share ?? 0) * 100);
  const lasted = `in the last ${span(tick.span_s)}`;
  const others = `${many(arms.other.n, "request", "requests")} of cold tenants went direct`;
  const drawn = `Of warm tenants’ requests ${share} % go direct, drawn at random: ${count.format(arms.control.n)} against ${count.format(arms.channel.n)} through channels ${lasted}.`;
  text(at("verdict-text"), arms.channel.n + arms.control.n ? `${drawn} Another ${others}; they are in the plots by path, and not judged.` : `${others} ${lasted}.`);
  rows(at("operations-table"), operations, (one) => one.name, (one) => [
    make("th", { scope: "row" }, ...one.name.split("_").flatMap((part, place) => (place ? ["_", make("wbr"), part] : [part]))),
    cell(count.format(one.channel.n), "more"), cell(ms(one.channel.p50)), cell(ms(one.channel.p99), "more"),
    cell(count.format(one.control.n), "more"), cell(ms(one.control.p50)), cell(ms(one.control.p99), "more"),
    cell(make("span", { class: `tag ${one.judgement}` }, one.ratio ? `${WORDS[one.judgement]}, ${one.ratio[0].toFixed(2)} ×` : WORDS[one.judgement]), "words"),
  ]);
}

function showPools(tick) {
  const names = { api: "requests", report: "reports" };
  rows(at("pools-table"), tick.pools, (one) => one.name, (one) => [
    head(one.name, names[one.name]),
    cell(meter(`${one.busy} of ${one.size}`, one.busy / one.size, one.busy >= one.size ? "soon" : ""), "words"),
    cell(count.format(one.waiting), one.waiting ? "attention" : ""),
    cell(ms(one.wait_p99)),
    cell(count.format(one.timeouts), one.timeouts ? "attention" : ""),
  ]);
  const missing = tick.pools.reduce((sum, one) => sum + one.missing, 0);
  const lost = missing ? ` ${many(missing, "connection is", "connections are")} missing and being opened.` : "";
  text(at("pools-text"), `Those of this server; ingestion’s are its workers’, and in Grafana.${lost}`);
}

function showBooks() {
  const { books, tick } = state;
  if (!books) {
    if (tick?.database) ["views", "facilities"].forEach((id) => empty(id, `Not read from the database yet: ${tick.database}.`));
    return;
  }
  const old = tick?.database && tick.books_at ? ` As of ${clock(tick.books_at)}: ${tick.database}.` : "";
  showViews(books.views);
  showFacilities(books.facilities, old);
}

function showViews(views) {
  empty("views", "");
  rows(at("views-table"), views, (one) => one.name, (one) => [
    head(one.name, `${many(one.rows, "row", "rows")}, kept ${one.way}`),
    cell(one.refreshed + one.applied ? ago(one.refreshed_at) : "never"),
    cell(one.behind_since === null ? make("span", { class: "tag ok" }, "current") : `lacks ${span((serverNow() - one.behind_since) / 1000)}`, "words"),
    cell(count.format(one.failed), one.reason ? "attention" : ""),
  ]);
}

const TROUBLED = new Set(["stopped", "failing", "overdue"]);

function showFacilities(facilities, old) {
  empty("facilities", facilities.length ? "" : "No facility is registered. `sluice facility add` registers one; its claims then come in by `sluice worker`.");
  const sums = new Map();
  facilities.forEach((one) => sums.set(one.health, (sums.get(one.health) ?? 0) + 1));
  const parts = [...sums].map(([health, number]) => `${count.format(number)} ${health}`);
  text(at("facilities-text"), facilities.length ? `${many(facilities.length, "facility", "facilities")}: ${parts.join(", ")}.${old}` : old);
  const sorted = [...facilities].sort((one, other) => TROUBLED.has(other.health) - TROUBLED.has(one.health));
  const troubled = sorted.filter((one) => TROUBLED.has(one.health)).length;
  const first = Math.max(FACILITIES_FIRST, Math.min(troubled, 50));
  const shown = state.allFacilities ? sorted : sorted.slice(0, first);
  const button = at("facilities-all");
  button.hidden = sorted.length <= first;
  text(button, state.allFacilities ? "Show fewer" : `Show all ${count.format(sorted.length)}`);
  button.setAttribute("aria-expanded", String(state.allFacilities));
  rows(at("facilities-table"), shown, (one) => one.licence, (one) => [
    head(one.licence, one.tenant),
    cell(make("div", {}, make("span", { class: `tag ${one.health}` }, one.is_running && one.health === "ok" ? "polling" : one.health), one.why ? make("small", {}, one.why) : null), "words"),
    cell(make("div", {}, one.finished_at === null ? "none yet" : ago(one.finished_at), one.outcome ? make("small", {}, one.outcome === "ok" ? `ok, ${many(one.claims, "claim", "claims")}` : one.outcome) : null)),
    cell(count.format(one.problems + one.parked), one.problems + one.parked ? "attention" : ""),
    cell(one.next_poll_at === null ? "–" : one.next_poll_at <= serverNow() ? "due" : `in ${span((one.next_poll_at - serverNow()) / 1000)}`, "more"),
  ]);
}

// Plots

// Plotly knows no time zones: it is given the moments that a clock on the wall shows.
const local = (moment) => moment - new Date(moment).getTimezoneOffset() * 60000;

const line = (name, path, key, dash) => ({
  type: "scatter", mode: "lines", name, connectgaps: false,
  x: state.points.map((point) => local(point.t)),
  y: state.points.map((point) => point[key]),
  line: { color: `$${path}`, width: dash ? 1.6 : 2.4, dash: dash ?? "solid" },
});
const times = () => {
  const last = state.points.at(-1)?.t ?? Date.now();
  const first = Math.min(state.points[0]?.t ?? last, last - 60000);
  return { type: "date", tickformat: last - first > 90000 ? "%H:%M" : "%H:%M:%S", nticks: 6, range: [local(first), local(last)] };
};
const MS = { type: "log", title: { text: "ms" }, tickvals: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] };

const SIZES = ["1", "2", "≤ 4", "≤ 8", "≤ 16", "≤ 32", "≤ 64", "≤ 128", "≤ 256"];

function figures(tick) {
  const { spread } = tick.comparison;
  const has = (...keys) => state.points.some((point) => keys.some((key) => point[key] !== null));
  const steps = (name, arm) => ({
    type: "scatter", mode: "lines", name, x: spread.ms, y: spread[arm], fill: "tozeroy", fillcolor: `$${arm === "channel" ? "channel" : "direct"}-veil`,
    line: { color: `$${arm === "channel" ? "channel" : "direct"}`, width: 2, shape: "hvh" }, hovertemplate: "%{y:.1f} % within %{x:.3~g} ms",
  });
  const point = tick.point;
  const { batches } = tick;
  const held = Math.max(5, batches.shares.findLastIndex((share) => share > 0) + 1);
  return {
    "plot-rate": {
      said: point.channel === null ? "" : `Now ${rate(point.channel)} requests a second by channel, ${rate(point.direct)} direct`,
      without: state.points.length > 1 ? "" : "The first figures come in a moment",
      data: [{ ...line("channel", "channel", "channel"), hovertemplate: "%{y:.0f}/s" }, { ...line("direct", "direct", "direct"), hovertemplate: "%{y:.0f}/s" }],
      layout: { hovermode: "x unified", xaxis: times(), yaxis: { rangemode: "tozero" } },
    },
    "plot-latency": {
      said: `Now a median of ${ms(point.channel_p50)} by channel, ${ms(point.direct_p50)} direct`,
      without: has("channel_p50", "direct_p50") ? "" : "Too few requests to tell",
      data: [
        line("channel, median", "channel", "channel_p50"), line("channel, p99", "channel", "channel_p99", "dot"),
        line("direct, median", "direct", "direct_p50"), line("direct, p99", "direct", "direct_p99", "dot"),
      ].map((one) => ({ ...one, hovertemplate: "%{y:.2f} ms" })),
      layout: { hovermode: "x unified", xaxis: times(), yaxis: MS },
    },
    "plot-spread": {
      said: `${tick.comparison.verdict.text}`,
      without: spread.ms.length > 1 ? "" : "No warm tenant has asked yet",
      data: spread.ms.length > 1 ? [steps("channel", "channel"), steps("direct, for comparison", "control")] : [],
      layout: { hovermode: "x unified", xaxis: { ...MS, title: { text: "ms, from the request to its answer" } }, yaxis: { rangemode: "tozero", ticksuffix: " %" } },
    },
    "plot-batches": {
      said: batches.n ? `${few.format(batches.mean)} requests a statement; ${few.format(batches.alone)} % of statements answered one alone` : "",
      without: batches.n ? "" : "No statement has been sent for a channel yet",
      data: [{
        type: "bar", name: "statements", marker: { color: "$channel" }, hovertemplate: "%{y:.1f} % of statements<extra></extra>",
        x: SIZES.slice(0, held), y: batches.shares.slice(0, held),
      }],
      layout: { bargap: 0.35, xaxis: { type: "category", title: { text: "requests" } }, yaxis: { ticksuffix: " %", rangemode: "tozero" } },
    },
  };
}

// A page that is open all day must cost little: not while nobody can see it, nor more often than anybody could follow.
function draw(now = true) {
  if (!state.tick || document.hidden || (!now && Date.now() - state.drawnAt < DRAW_MS)) return;
  state.drawnAt = Date.now();
  for (const [id, { said, without, ...figure }] of Object.entries(figures(state.tick))) {
    const place = at(id);
    place.setAttribute("aria-label", without || said);
    if (without) place.dataset.empty = without;
    else delete place.dataset.empty;
    if (window.Plotly) Drawing.draw(place, figure);
  }
}

function show() {
  showNow(state.tick);
  showTenants(state.tick);
  showComparison(state.tick);
  showPools(state.tick);
  showBooks();
  draw(false);
}

// The stream

const kinds = {
  hello(data) {
    state.hello = data;
    const first = data.points[0]?.t ?? Infinity;
    state.points = [...state.points.filter((point) => point.t < first), ...data.points];
  },
  tick(data) {
    state.tick = data;
    state.tickedAt = Date.now();
    if (data.point.t > (state.points.at(-1)?.t ?? 0)) state.points.push(data.point);
    state.points = state.points.filter((point) => point.t > data.at - 300000);
    live();
    show();
  },
  books(data) {
    state.books = data;
    if (state.tick) showBooks();
  },
  ended() {
    location.assign("/console/login?why=ended");
  },
};
let source = null;

function live() {
  at("stream").dataset.state = document.body.dataset.stream = "live";
  text(at("stream-text"), `Live, ${clock(state.tick.at)}`);
}

function lost(why) {
  at("stream").dataset.state = document.body.dataset.stream = "lost";
  const since = state.tick ? ` Figures are of ${clock(state.tick.at)}.` : "";
  text(at("stream-text"), `${why} Trying again.${since}`);
}

function listen() {
  source?.close();
  state.heardAt = Date.now();
  source = new EventSource("/console/events");
  for (const [kind, take] of Object.entries(kinds)) {
    source.addEventListener(kind, (event) => {
      state.heardAt = Date.now();
      take(JSON.parse(event.data));
    });
  }
  source.onerror = () => {
    lost("Connection lost.");
    // It tries again by itself, but not after a refusal: then the server is asked what is wrong.
    if (source.readyState === EventSource.CLOSED) setTimeout(ask, 1000);
  };
}

async function ask() {
  const left = new AbortController();
  try {
    const answer = await fetch("/console/events", { signal: left.signal, headers: { Accept: "text/event-stream" } });
    if (answer.status === 401) return kinds.ended();
    if (answer.ok) {
      left.abort();
      return listen();
    }
    const { detail } = await answer.json();
    lost(`${detail.charAt(0).toUpperCase()}${detail.slice(1)}.`);
  } catch {
    lost("Connection lost.");
  }
  setTimeout(ask, 4000);
}

setInterval(() => {
  showCountdowns();
  if (source?.readyState !== EventSource.CLOSED && Date.now() - state.heardAt > SILENCE_MS) {
    lost("Nothing is heard.");
    listen();
  }
}, 1000);

// What can be pressed

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

function themed() {
  text(at("theme"), isDark() ? "Light" : "Dark");
  at("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  draw();
}

at("theme").addEventListener("click", () => {
  const chosen = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("sluice-theme", chosen); } catch { /* it then holds for this page alone */ }
  themed();
});
at("facilities-all").addEventListener("click", () => {
  state.allFacilities = !state.allFacilities;
  showBooks();
});
dark.addEventListener("change", themed);
document.addEventListener("visibilitychange", () => draw());
at("plotly").addEventListener("load", () => draw());
themed();
listen();
