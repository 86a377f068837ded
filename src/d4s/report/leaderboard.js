"use strict";
// Shows the numbers of the page as a table that can be sorted and filtered. The view is kept in the page's address.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLUMNS = new Map(DATA.columns.map((column) => [column.key, column]));
const FILTERS = ["model", "dataset", "edits", "protocol", "state"];
const ALL = "all";
const by = (id) => document.getElementById(id);
const view = { search: "", against: "", sort: "rank", down: false };
let opened = null; // the row whose details are shown

// --- numbers --------------------------------------------------------------------------------------------------------

const minus = (text) => text.replace("-", "−");

function shown(key, value) {
  const { factor, digits } = COLUMNS.get(key);
  if (value === null || value === undefined) return "–";
  const number = value * factor;
  return minus(Math.abs(number) >= 1e6 ? number.toExponential(1) : number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
}

function interval(key, [, low, high]) {
  return low === null || high === null || low === high ? "" : ` [${shown(key, low)}, ${shown(key, high)}]`;
}

function title(key) {
  const { group, header } = COLUMNS.get(key);
  return group === "Free answers, %" ? `${header}, free` : header;
}

// --- elements -------------------------------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function fill(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value, textContent: text, selected: value === chosen })));
}

// --- what is chosen -------------------------------------------------------------------------------------------------

const isChosen = (row, name) => view[name] === ALL || String(row[name]) === view[name];

function choices(name) {
  // Only what exists together with the choices before it in the line of filters.
  const before = FILTERS.slice(0, FILTERS.indexOf(name));
  const rows = DATA.rows.filter((row) => before.every((other) => isChosen(row, other)) && row[name] !== "");
  return [...new Set(rows.map((row) => String(row[name])))];
}

function choose() {
  for (const name of FILTERS) {
    const found = choices(name);
    if (view[name] !== ALL && !found.includes(view[name])) view[name] = name === "state" ? ALL : found[0] ?? ALL;
    fill(by(name), [...found.map((value) => [value, value]), [ALL, ALL]], view[name]);
  }
  const editors = new Map(placed().filter((row) => row.rank).map((row) => [row.editor, row.name]));
  if (!editors.has(view.against)) view.against = "";
  fill(by("against"), [["", "–"], ...editors], view.against);
  if (COLUMNS.has(view.sort) && !columns().includes(view.sort)) Object.assign(view, { sort: "rank", down: false });
  const keys = [["rank", "Rank"], ["name", "Editor"], ...columns().map((key) => [key, title(key)])];
  fill(by("order"), keys, view.sort);
}

const placed = () => DATA.rows.filter((row) => FILTERS.every((name) => isChosen(row, name)));

function rows() {
  const words = view.search.toLowerCase();
  const found = placed().filter((row) => `${row.name} ${row.editor} ${row.paper}`.toLowerCase().includes(words));
  return found.sort((one, other) => compare(one, other));
}

function columns() {
  const present = new Set(placed().flatMap((row) => Object.keys(row.values)));
  return [...COLUMNS.keys()].filter((key) => present.has(key));
}

function sortValue(row) {
  if (view.sort === "name") return row.name.toLowerCase();
  if (view.sort === "rank") return row.rank ? row.rank[0] : null;
  return row.values[view.sort]?.[0] ?? null;
}

function compare(one, other) {
  const [left, right] = [sortValue(one), sortValue(other)];
  if (left === null || right === null) return (left === null) - (right === null); // what is missing comes last, whichever way
  const order = left < right ? -1 : left > right ? 1 : 0;
  return view.down ? -order : order;
}

function sortBy(key) {
  const highFirst = COLUMNS.get(key)?.best === "high";
  view.down = view.sort === key ? !view.down : highFirst;
  view.sort = key;
  show();
}

// --- the table ------------------------------------------------------------------------------------------------------

function places() {
  // Where several places are shown, the columns that tell them apart.
  return FILTERS.filter((name) => name !== "state" && view[name] === ALL);
}

function heading(key, text, classes) {
  const header = element("th", { className: classes, scope: "col" }, element("button", { type: "button", textContent: text }));
  header.dataset.key = key;
  header.setAttribute("aria-sort", view.sort === key ? (view.down ? "descending" : "ascending") : "none");
  header.firstChild.addEventListener("click", () => {
    sortBy(key);
    by("board").querySelector(`th[data-key="${key}"] button`).focus();
  });
  return header;
}

function classOf(key) {
  return `c-${key}${key === "average" || key === view.sort ? " core" : ""}`;
}

function head() {
  const groups = element("tr");
  const plain = 2 + places().length + (view.against ? 1 : 0);
  groups.append(element("th", { colSpan: plain }));
  for (const key of columns()) {
    const { group } = COLUMNS.get(key);
    const last = groups.lastChild;
    if (last.textContent === group && last.className === "group") last.colSpan += 1;
    else groups.append(element("th", { className: "group", textContent: group, colSpan: 1, scope: "colgroup" }));
  }
  const line = element("tr", {}, heading("name", "Editor", "name core"), heading("rank", "Rank", "c-rank core"));
  if (view.against) line.append(element("th", { scope: "col", className: "against core", textContent: "Held against" }));
  line.append(...places().map((name) => element("th", { scope: "col", textContent: name })));
  line.append(...columns().map((key) => heading(key, COLUMNS.get(key).header, classOf(key))));
  by("board").tHead.replaceChildren(groups, line);
}

function relation(row) {
  const held = placed().find((other) => other.editor === view.against && FILTERS.slice(0, 4).every((name) => other[name] === row[name]));
  if (!held || !row.rank || held === row) return "";
  if (held.against["+"].includes(row.name)) return "worse";
  return held.against["-"].includes(row.name) ? "better" : "not told apart";
}

function valueCell(row, key) {
  const numbers = row.values[key];
  const cell = element("td", { className: classOf(key), textContent: shown(key, numbers?.[0]) });
  if (key !== "average" || !numbers || numbers[1] === null) return cell;
  cell.append(element("small", { textContent: `±${shown(key, (numbers[2] - numbers[1]) / 2)}` }));
  const [low, high] = [Math.max(0, numbers[1]), Math.min(1, numbers[2])];
  const bar = element("i");
  bar.style.left = `${100 * low}%`;
  bar.style.width = `${100 * Math.max(0, high - low)}%`;
  const strip = element("span", { className: "strip" }, bar);
  strip.setAttribute("aria-hidden", "true");
  cell.append(strip);
  return cell;
}

function line(row) {
  const button = element("button", { type: "button", textContent: row.name });
  button.setAttribute("aria-expanded", String(opened === row));
  const name = element("td", { className: "name core" }, button);
  if (row.front) name.append(element("span", { className: "front", textContent: " ◆", title: "on the front" }));
  const rank = row.rank ? `${row.rank[0]} ` : "–";
  const range = row.rank ? element("small", { textContent: `[${row.rank[1]}–${row.rank[2]}]` }) : "";
  const how = relation(row);
  const states = [row.rank ? "" : "reference", how && "told", how.split(" ")[0], row.editor === view.against ? "held" : ""];
  const made = element("tr", { className: states.filter(Boolean).join(" ") }, name, element("td", { className: "c-rank core" }, rank, range));
  if (view.against) made.append(element("td", { className: "against core", textContent: how || "–" }));
  made.append(...places().map((place) => element("td", { textContent: row[place] })));
  made.append(...columns().map((key) => valueCell(row, key)));
  button.addEventListener("click", () => {
    opened = opened === row ? null : row;
    body();
    [...by("board").querySelectorAll("td.name button")].find((one) => one.textContent === row.name)?.focus();
  });
  return made;
}

function details(row) {
  const list = (pairs, className = "") => element("dl", { className }, ...pairs.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", {}, value)]));
  const numbers = Object.keys(row.values).map((key) => [title(key), shown(key, row.values[key][0]) + interval(key, row.values[key])]);
  const order = [...COLUMNS.keys()].map(title);
  numbers.sort((one, other) => order.indexOf(one[0]) - order.indexOf(other[0]));
  const words = [["Kept of edits", row.state || "–"], ["Preset", element("code", { textContent: row.editor })]];
  if (row.paper) words.push(["Paper", row.address ? element("a", { href: row.address, textContent: row.paper }) : row.paper]);
  if (row.against) {
    words.push(["Really better than", row.against["+"].join(", ") || "none"], ["Really worse than", row.against["-"].join(", ") || "none"]);
    words.push(["Not told apart from", row.against["="].join(", ") || "none"]);
  }
  if (row.diverged !== null) words.push(["Diverged", `at edit ${row.diverged}; measured at the last finite state`]);
  words.push(["Seeds", row.seeds.join(", ")], ["Runs", element("code", { textContent: row.runs.join(", ") })]);
  const settings = DATA.settings[row.settings];
  const inner = element("div", { className: "inner" }, list(numbers), list(words, "long"));
  if (settings) inner.append(element("details", {}, element("summary", { textContent: "Settings, resolved" }), element("pre", { textContent: settings })));
  const cell = element("td", { className: "core", colSpan: 99 }, inner);
  return element("tr", { className: "more" }, cell);
}

function body() {
  const found = rows();
  by("board").tBodies[0].replaceChildren(...found.flatMap((row) => (opened === row ? [line(row), details(row)] : [line(row)])));
  const name = view.sort === "rank" ? "rank" : view.sort === "name" ? "name" : title(view.sort);
  const count = found.length === 1 ? "1 row" : `${found.length} rows`;
  by("status").textContent = `${count}, ordered by ${name}, ${view.down ? "descending" : "ascending"}.`;
}

function show() {
  choose();
  head();
  body();
  history.replaceState(null, "", `#${new URLSearchParams(view)}`);
}

// --- begin ----------------------------------------------------------------------------------------------------------

function begin() {
  const kept = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of FILTERS) view[name] = kept[name] ?? (name === "state" ? ALL : "");
  Object.assign(view, { search: kept.search ?? "", against: kept.against ?? "", down: kept.down === "true" });
  view.sort = COLUMNS.has(kept.sort) || kept.sort === "name" ? kept.sort : "rank";
  by("search").value = view.search;
  for (const name of [...FILTERS, "against"]) by(name).addEventListener("change", (event) => { view[name] = event.target.value; show(); });
  by("order").addEventListener("change", (event) => sortBy(event.target.value));
  by("search").addEventListener("input", (event) => { view.search = event.target.value; show(); });
  by("controls").addEventListener("submit", (event) => event.preventDefault());
  show();
}

begin();
