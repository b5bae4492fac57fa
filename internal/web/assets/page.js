// The page of a configuration master. Everything that comes from the cluster is set as text (textContent), never as markup; the policy
// that the page is served with forbids the latter anyway (Trusted Types).
"use strict";

const find = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// element makes a node: what ("td.number"), its properties and what is in it.
function element(what, properties, ...content) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...content.filter((one) => one !== null && one !== undefined && one !== ""));
  return node;
}

function drawn(what, attributes, ...content) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElementNS(SVG, tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...content.filter((one) => one !== null && one !== undefined && one !== ""));
  return node;
}

const digits = (n) => Number(n).toLocaleString("en-US");
function size(n) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (n < 1000 || unit === "TB") return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + " " + unit;
    n /= 1000;
  }
}
const millis = (n) => n === null || n === undefined ? "–" : n < 10000 ? Math.round(n) + " ms" : (n / 1000).toFixed(1) + " s";
const two = (n) => String(n).padStart(2, "0");
function clock(ms) {
  const t = new Date(ms);
  return two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
}
function when(ms) {
  const t = new Date(ms);
  return t.getFullYear() + "-" + two(t.getMonth() + 1) + "-" + two(t.getDate()) + " " + clock(ms);
}

function table(headings, rows, caption) {
  if (!rows.length) return element("p.empty", {}, caption || "Nothing yet.");
  const head = element("tr", {}, ...headings.map((h) => element(h.startsWith("#") ? "th.number" : "th", { scope: "col" }, h.replace(/^#/, ""))));
  const body = rows.map((row) => element(row.what || "tr", {}, ...row.cells.map((cell, i) =>
    cell instanceof HTMLTableCellElement ? cell : element(headings[i].startsWith("#") ? "td.number" : "td.wrap", {}, cell))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

// ---- asking

let session = { who: "", roles: [], may_change: false, token: "", no_login: "", certificate: "" };

async function ask(path, parameters) {
  const query = new URLSearchParams(Object.entries(parameters || {}).filter(([, value]) => value !== undefined && value !== ""));
  const answer = await fetch(path + (query.size ? "?" + query : ""), { headers: { Accept: "application/json" } });
  return readAnswer(answer);
}

async function tell(path, value) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json", "X-Lockstep-Token": session.token }, body: JSON.stringify(value) });
  return readAnswer(answer);
}

async function readAnswer(answer) {
  let content;
  try {
    content = await answer.json();
  } catch {
    throw new Error("the answer cannot be read (" + answer.status + ")");
  }
  if (!answer.ok) throw new Error(content.error || "refused (" + answer.status + ")");
  return content;
}

// ---- what is known

let now = null; // the last state
let groupName = "";
const past = new Map(); // "group/node" -> states of the last seconds, for rates
const curve = new Map(); // group -> bytes a second at its master, the last two minutes
const group = () => now && (now.groups.find((g) => g.name === groupName) || now.groups[0]);

function takeState(state) {
  const first = !now;
  now = state;
  for (const g of state.groups) {
    for (const r of g.replicas) {
      const key = g.name + "/" + r.node;
      const list = past.get(key) || [];
      const last = list[list.length - 1];
      if (last && (r.end < last.end || state.time_ms <= last.time)) list.length = 0; // it was cut back, or another process answers
      list.push({ time: state.time_ms, end: r.end, applied: r.applied });
      while (list.length > 1 && state.time_ms - list[0].time > 5000) list.shift();
      past.set(key, list);
    }
    const leader = g.replicas.find((r) => r.node === g.master);
    const points = curve.get(g.name) || [];
    points.push({ time: state.time_ms, rate: leader && leader.up ? rate(g, leader) : 0 });
    while (points.length && state.time_ms - points[0].time > 120000) points.shift();
    curve.set(g.name, points);
  }
  showState();
  if (first) refresh();
}

function rate(g, r) {
  const list = past.get(g.name + "/" + r.node) || [];
  if (list.length < 2) return 0;
  const first = list[0], last = list[list.length - 1];
  return Math.max(0, (last.end - first.end) * 1000 / (last.time - first.time));
}

// ---- the connection

let source = null;
let heard = 0; // when something came last
let lost = false;
let polling = false;
let retry = 0;

function connect() {
  clearTimeout(retry);
  if (source) source.close();
  source = new EventSource("/web/stream");
  heard = Date.now();
  source.addEventListener("state", (e) => { arrived(); takeState(JSON.parse(e.data)); });
  source.addEventListener("happened", (e) => { arrived(); takeEvent(JSON.parse(e.data)); });
  source.addEventListener("silence", (e) => { arrived(); notice(JSON.parse(e.data).error, "bad"); });
  source.onerror = () => { source.close(); later(); };
}

// later asks once by hand: if that works, there are too many who follow, or the stream has ended as it does now and then.
async function later() {
  clearTimeout(retry);
  try {
    const state = await ask("/web/state");
    arrived();
    polling = true;
    takeState(state);
    retry = setTimeout(connect, 1000);
  } catch {
    disconnected();
    retry = setTimeout(later, 1000);
  }
}

function arrived() {
  heard = Date.now();
  if (!lost && !polling && find("link").textContent !== "connecting") return;
  const again = lost || polling;
  lost = polling = false;
  find("lost").hidden = true;
  document.body.classList.remove("stale");
  pill(find("link"), "live", "good");
  if (again) refresh(); // what was missed meanwhile
}

function disconnected() {
  lost = true;
  find("notice").hidden = true;
  document.body.classList.add("stale");
  pill(find("link"), "no connection", "bad");
  const banner = find("lost");
  if (!banner.hidden) return;
  const links = now ? now.confmasters.filter((c) => c.id !== now.self && c.page).map((c) => element("a", { href: c.page + location.hash }, "c" + c.id)) : [];
  banner.replaceChildren("The connection to this configuration master" + (now ? " (c" + now.self + ")" : "") + " is lost; trying again every second. " +
    (now ? "What you see is of " + clock(now.time_ms) + ". " : ""), ...(links.length ? ["The same page is at "] : []), ...links.flatMap((a, i) => i ? [", ", a] : [a]), links.length ? "." : "");
  banner.hidden = false;
}

setInterval(() => {
  if (source && source.readyState !== EventSource.CLOSED && Date.now() - heard > 5000) { // half open: nothing says that it has ended
    source.close();
    disconnected();
    later();
  }
}, 1000);

function pill(node, text, kind) {
  node.textContent = text;
  node.className = "pill " + kind;
}

let noticeTimer = 0;
function notice(text, kind) {
  const node = find("notice");
  clearTimeout(noticeTimer);
  node.textContent = text;
  node.className = "banner " + kind;
  node.hidden = false;
  noticeTimer = setTimeout(() => { node.hidden = true; }, 12000);
}

// ---- topology

const stateKind = { ok: "good", degraded: "warn", electing: "bad", unavailable: "bad", creating: "warn" };

function showState() {
  const g = group();
  find("cluster").textContent = now.cluster;
  find("cluster").title = "cluster " + now.cluster;
  const leader = now.confmasters.find((c) => c.leader);
  find("as-of").textContent = "As of " + clock(now.time_ms) + ", told by c" + now.self + (leader ? leader.id === now.self ? ", which leads the configuration masters" : "; c" + leader.id + " leads the configuration masters" : "; the configuration masters have no leader");
  const pages = now.confmasters.filter((c) => c.id !== now.self && c.page);
  const key = pages.map((c) => c.page).join() + location.hash;
  if (find("others").dataset.key !== key) {
    find("others").dataset.key = key;
    find("others").replaceChildren(...(pages.length ? ["The same page at "] : []), ...pages.flatMap((c, i) => [i ? ", " : "", element("a", { href: c.page + location.hash }, "c" + c.id)]));
  }
  showGroups();
  if (!g) {
    find("summary").replaceChildren(element("span.pill.warn", {}, "no group"));
    find("picture").replaceChildren(element("p.empty", {}, "No group is registered yet. `smrctl group create` registers one."));
    find("replicas").replaceChildren(element("p.empty", {}, "There are no replicas."));
    find("rate-card").hidden = true;
    return;
  }
  find("rate-card").hidden = false;
  find("cancel-change").hidden = !g.plan || !session.may_change;
  find("summary").replaceChildren(
    element("span.pill." + (stateKind[g.state] || "warn"), { id: "group-state" }, g.name + ": " + g.state),
    element("span", {}, "master ", element("strong", { id: "master" }, g.master || "none")),
    element("span", {}, "epoch " + g.epoch + (g.established !== g.epoch ? " (established " + g.established + ")" : "")),
    element("span", {}, "copies " + g.copies + (g.min_copies !== g.copies ? ", at least " + g.min_copies : "")),
    element("span", {}, "sync " + g.sync),
    ...(g.plan ? [element("span.pill.warn", {}, g.plan)] : []),
    ...(g.detail ? [element("span.wide.muted", {}, g.detail)] : []));
  if (!find("view-topology").hidden) {
    drawTopology(g);
    drawRate(g);
    showReplicas(g);
  }
  showLogNodes(g);
}

function showGroups() {
  const names = now.groups.map((g) => g.name);
  if (!names.includes(groupName)) groupName = names[0] || "";
  const select = find("group");
  if ([...select.options].map((o) => o.value).join() !== names.join()) select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  select.value = groupName;
  find("group-choice").hidden = names.length < 2;
}

function standing(g, r) {
  if (!r.up) return ["down", "bad"];
  if (r.node === g.master) return ["master", "master"];
  if (r.standing) return [r.standing, "warn"];
  if (r.image) return ["fetching an image", "warn"];
  if (!r.attached) return [(r.role || "none") + ", no KV node", "warn"];
  if (!r.member) return ["learner", "warn"];
  if (r.role === "slave") return ["slave", "slave"];
  return [r.role || "none", "warn"];
}

function drawTopology(g) {
  const figure = find("picture");
  const wide = figure.clientWidth >= 640;
  const master = g.replicas.find((r) => r.node === g.master);
  const others = g.replicas.filter((r) => r !== master);
  const width = wide ? 980 : 400, card = wide ? 330 : 340, tall = 128, gap = 18;
  const masters = now.confmasters;
  const perRow = wide ? 5 : 3;
  const pillWidth = wide ? 150 : 112, pillGap = 14;
  const rows = Math.ceil(masters.length / perRow);
  const top = 34 + rows * 56 + 24;
  const picture = drawn("svg", { role: "img", "aria-label": describe(g) });
  picture.append(drawn("text.soft.small", { x: wide ? 20 : 30, y: 22 }, "configuration masters"));
  masters.forEach((c, i) => {
    const inRow = Math.min(perRow, masters.length - Math.floor(i / perRow) * perRow);
    const x = (width - inRow * (pillWidth + pillGap) + pillGap) / 2 + (i % perRow) * (pillWidth + pillGap), y = 34 + Math.floor(i / perRow) * 56;
    picture.append(drawn("g", {}, drawn("title", {}, "configuration master c" + c.id + " at " + c.addr + (c.leader ? ", leads" : "") + (c.up ? "" : ", down")),
      drawn("rect.box" + (c.up ? "" : ".down"), { x, y, width: pillWidth, height: 46, rx: 23 }),
      drawn("text.role" + (c.leader ? ".master" : c.up ? "" : ".bad"), { x: x + pillWidth / 2, y: y + 20, "text-anchor": "middle" }, "c" + c.id + (c.leader ? " leads" : c.up ? "" : " is down")),
      drawn("text.soft.small", { x: x + pillWidth / 2, y: y + 37, "text-anchor": "middle" }, c.id === now.self ? "this page" : wide ? shorten(c.addr, 20) : shorten(c.addr.replace(/^127\.0\.0\.1/, ""), 14))));
  });
  let height;
  const place = [];
  if (wide) {
    const slaves = Math.max(1, others.length) * (tall + gap) - gap;
    const y = top + Math.max(0, (slaves - tall) / 2);
    place.push({ x: 20, y });
    others.forEach((_, i) => place.push({ x: width - card - 20, y: top + i * (tall + gap) }));
    height = top + Math.max(slaves, tall) + 24;
  } else {
    place.push({ x: 30, y: top });
    others.forEach((_, i) => place.push({ x: 30, y: top + (i + 1) * (tall + 48) }));
    height = top + (others.length + 1) * (tall + 48) - 24;
  }
  others.forEach((r, i) => picture.append(...drawFlow(g, master, r, place[0], place[i + 1], { wide, card, tall })));
  picture.append(master ? drawReplica(g, master, place[0], card, tall) :
    drawn("g", {}, drawn("rect.box.none", { ...place[0], width: card, height: tall, rx: 12 }),
      drawn("text.role.bad", { x: place[0].x + card / 2, y: place[0].y + 58, "text-anchor": "middle" }, "no master"),
      drawn("text.soft.small", { x: place[0].x + card / 2, y: place[0].y + 80, "text-anchor": "middle" }, g.state)));
  others.forEach((r, i) => picture.append(drawReplica(g, r, place[i + 1], card, tall)));
  picture.setAttribute("viewBox", "0 0 " + width + " " + height);
  figure.replaceChildren(picture);
}

function describe(g) {
  return "Group " + g.name + " is " + g.state + ". " + (g.master ? "Master " + g.master : "No master") + ". " +
    g.replicas.filter((r) => r.node !== g.master).map((r) => r.node + ": " + standing(g, r)[0] + (r.lag_bytes ? ", " + size(r.lag_bytes) + " behind" : "")).join("; ") + ".";
}

const shorten = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;

function drawReplica(g, r, at, width, height) {
  const [role, kind] = standing(g, r);
  const line = (y, name, value) => [drawn("text.soft.small", { x: at.x + 20, y }, name), drawn("text.digits", { x: at.x + width - 16, y, "text-anchor": "end" }, value)];
  const known = r.known && r.up;
  return drawn("g", {}, drawn("title", {}, r.node + ": " + role + (r.saw && !r.up ? "; " + r.saw : "") + ". Clients: " + r.kv_addr),
    drawn("rect.box" + (r.up ? "" : ".down"), { x: at.x, y: at.y, width, height, rx: 12 }),
    drawn("rect.edge-bar." + kind, { x: at.x, y: at.y + 14, width: 6, height: height - 28, rx: 3 }),
    drawn("text.name", { x: at.x + 20, y: at.y + 29 }, shorten(r.node, 18)),
    drawn("text.role." + kind, { x: at.x + width - 16, y: at.y + 28, "text-anchor": "end" }, shorten(role, 28)),
    ...line(at.y + 54, "end of the log", known ? digits(r.end) : "?"), ...line(at.y + 74, "committed", known ? digits(r.commit) : "?"), ...line(at.y + 94, "applied", known ? digits(r.applied) : "?"),
    ...(r.up ? line(at.y + 114, r.kv_addr, size(rate(g, r)) + "/s") : line(at.y + 114, shorten(r.saw || "not seen", 30), r.last_seen_ms ? "since " + millis(r.last_seen_ms) : "")));
}

function drawFlow(g, master, r, from, to, { wide, card, tall }) {
  const on = master && master.up && r.up && (r.role === "slave" || r.role === "learner");
  const moving = on && rate(g, r) > 0;
  const label = !r.up ? "down" : r.image ? "image " + Math.round(100 * r.image.done / r.image.total) + " %, " + size(r.image.rate) + "/s" :
    !on ? "not following" : r.lag_bytes ? size(r.lag_bytes) + ", " + millis(r.lag_ms) + " behind" : "in step";
  const what = "path.flow" + (on ? ".on" : ".off") + (moving ? ".moving" : "");
  if (wide) {
    const x1 = from.x + card + 6, y1 = from.y + tall / 2, x2 = to.x - 14, y2 = to.y + tall / 2, mid = (x1 + x2) / 2;
    return [drawn(what, { d: `M${x1} ${y1} C${mid} ${y1} ${mid} ${y2} ${x2} ${y2}` }),
      on ? drawn("path.arrow", { d: `M${x2 + 10} ${y2} l-11 -6 v12z` }) : null,
      drawn("text.label", { x: (mid + x2) / 2, y: y2 > y1 + 4 ? y2 + 19 : y2 - 9, "text-anchor": "middle" }, label)].filter(Boolean);
  }
  const x = to.x + card - 40, y2 = to.y - 12, y1 = to.y - 42;
  return [drawn(what, { d: `M${x} ${y1} V${y2}` }), on ? drawn("path.arrow", { d: `M${x} ${y2 + 9} l-6 -11 h12z` }) : null,
    drawn("text.label", { x: x - 14, y: to.y - 16, "text-anchor": "end" }, (master ? "from " + master.node + ": " : "") + label)].filter(Boolean);
}

function drawRate(g) {
  const points = curve.get(g.name) || [];
  const width = Math.max(300, find("rate").clientWidth || 600), height = 84;
  const most = Math.max(1000, ...points.map((p) => p.rate));
  const end = now.time_ms;
  const x = (t) => width - (end - t) * width / 120000, y = (v) => height - 18 - v * (height - 34) / most;
  const line = points.map((p) => x(p.time).toFixed(1) + " " + y(p.rate).toFixed(1)).join(" L");
  const last = points.length ? points[points.length - 1].rate : 0;
  find("rate").replaceChildren(drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Bytes a second written to the log in the last two minutes; now " + size(last) },
    drawn("line.mark", { x1: 0, x2: width, y1: height - 18, y2: height - 18 }),
    ...(points.length > 1 ? [drawn("path.area", { d: `M${x(points[0].time).toFixed(1)} ${height - 18} L${line} L${x(end).toFixed(1)} ${height - 18}z` }), drawn("path.curve", { d: "M" + line })] : []),
    drawn("text.small", { x: 2, y: 12 }, size(last) + " a second" + (most > 1000 ? ", at most " + size(most) : "")),
    drawn("text.soft.small", { x: 2, y: height - 3 }, "2 minutes ago"), drawn("text.soft.small", { x: width - 2, y: height - 3, "text-anchor": "end" }, "now")));
}

function showReplicas(g) {
  const focused = document.activeElement && document.activeElement.dataset.drain; // who tabs through the table keeps the place
  find("replicas").replaceChildren(table(["Replica", "Standing", "#End", "#Durable", "#Committed", "#Applied", "#Behind", "#Rate", "Clients at", ...(session.may_change ? [""] : [])], g.replicas.map((r) => {
    const undo = r.standing === "drained";
    const button = session.may_change ? [element("td.nowrap", {}, r.standing && !undo ? "" : element("button.small", { type: "button", "data-drain": r.node, onclick: () => askDrain(r.node, undo), "aria-label": (undo ? "Take back " : "Drain ") + r.node }, undo ? "Take back…" : "Drain…"))] : [];
    const [role, kind] = standing(g, r);
    const known = (n) => r.known ? digits(n) : "?";
    return { cells: [element("td.nowrap", {}, element("strong", {}, r.node)), element("td", {}, element("span.pill." + ({ bad: "bad", warn: "warn" }[kind] || "good"), {}, role), r.up || !r.saw ? "" : " " + r.saw),
      known(r.end), known(r.durable), known(r.commit), known(r.applied), r.node === g.master || !r.up ? "–" : r.lag_bytes ? size(r.lag_bytes) + ", " + millis(r.lag_ms) : "0 B", r.up ? size(rate(g, r)) + "/s" : "–", element("td.nowrap", {}, r.kv_addr), ...button] };
  }), "No replica is registered."));
  if (focused) find("replicas").querySelector("[data-drain=" + CSS.escape(focused) + "]")?.focus();
}

// ---- history

let historyTimer = 0;
let decisions = [];
const opened = new Map(); // stories that somebody opened or closed

function wantHistory() {
  clearTimeout(historyTimer);
  historyTimer = setTimeout(loadHistory, 150);
}

async function loadHistory() {
  if (!now || find("view-history").hidden) return;
  try {
    const list = (await ask("/web/history", { group: groupName })).decisions;
    const same = list.length === decisions.length && list.every((d, i) => d.id === decisions[i].id);
    decisions = list;
    if (!same || !find("stories").hasChildNodes()) showHistory(); // who reads is not disturbed for nothing
  } catch (e) {
    if (!lost) notice("History: " + e.message, "bad");
  }
}

// stories gathers what belongs together: from the decision to elect until a master is established.
function stories(list) {
  const told = [];
  let open = null;
  for (const d of list) {
    const begins = d.kind === "election" || d.kind === "switchover";
    if (begins && !open) {
      open = { kind: d.kind, entries: [] };
      told.push(open);
    }
    if (open && !d.reason.startsWith("audit: ")) {
      open.entries.push(d);
      if (d.kind === "election" && open.kind !== "switchover") open.kind = "election";
      if (d.kind === "established" || d.kind === "created") open = null;
    } else told.push({ kind: d.kind, entries: [d] });
  }
  return told;
}

function showHistory() {
  const all = find("history-kind").value === "all";
  let before = "";
  const list = [];
  for (const story of stories(decisions)) {
    const changes = story.kind === "election" || story.kind === "switchover";
    const old = before;
    for (const d of story.entries) if (d.kind === "established" || d.kind === "created") before = d.master || before;
    if (changes || all) list.push(changes ? tellChange(story, old) : tellEntry(story.entries[0]));
  }
  list.reverse();
  const newest = list.find((one) => one.querySelector("details"));
  if (newest && !opened.has(newest.dataset.key)) newest.querySelector("details").open = true;
  find("stories").replaceChildren(...(list.length ? list : [element("p.empty.card", {}, "Nothing has happened yet: the master that was elected first still leads. A drill shows a fail-over: smrctl drill run kill-master")]));
}

function tellChange(story, before) {
  const first = story.entries[0], last = story.entries[story.entries.length - 1];
  const done = last.kind === "established";
  const planned = story.kind === "switchover";
  const chosen = [...story.entries].reverse().find((d) => d.master);
  const after = done && last.master ? last.master : chosen ? chosen.master : "";
  const title = (planned ? "Switch-over" : before ? "Fail-over" : "First election") + (before ? ": " + before + " → " + (after || "?") : after ? ": " + after : "");
  const key = String(first.id);
  const details = element("details", { open: opened.get(key) || false }, element("summary", { onclick: () => opened.set(key, !details.open) }, "Explanation: who saw what, and the candidates"));
  for (const d of story.entries) {
    if (d.witnesses.length) details.append(element("h3", {}, "Seen by the configuration masters"), element("div.scroll", {}, table(["By", "Node", "#Silent", "What"], d.witnesses.map((w) => ({ cells: ["c" + w.confmaster, w.node, millis(w.silent_ms), w.saw] })))));
    if (d.candidates.length) details.append(element("h3", {}, "Candidates for epoch " + d.epoch), element("div.scroll", {}, table(["Node", "#Epoch of its last byte", "#End", "#Commit", "#Applied", "", "Note"],
      d.candidates.map((c) => ({ cells: [c.node, digits(c.position_epoch), digits(c.end), digits(c.commit), digits(c.applied), c.chosen ? element("td", {}, element("span.pill.good", {}, "chosen")) : "", c.note] })))));
  }
  return element("article.card.story" + (planned ? ".switch-over" : before ? ".fail-over" : ""), { "data-key": key },
    element("header", {}, element("h3", {}, title), element("time", { dateTime: new Date(first.time_ms).toISOString() }, when(first.time_ms)),
      element("span.pill." + (done ? "good" : "warn"), {}, done ? "epoch " + last.epoch + " established after " + millis(last.time_ms - first.time_ms) : "not established")),
    element("ol", {}, ...story.entries.map((d) => element("li", {}, element("strong", {}, d.kind), " (c" + d.confmaster + ", " + clock(d.time_ms) + "): " + (d.reason || (d.master ? "master " + d.master : ""))))), details);
}

function tellEntry(d) {
  return element("article.card.story", {}, element("header", {}, element("h3", {}, d.reason.startsWith("audit: ") ? "change by hand" : d.kind), element("time", { dateTime: new Date(d.time_ms).toISOString() }, when(d.time_ms)), element("span.muted", {}, "epoch " + d.epoch + ", c" + d.confmaster)),
    element("p", {}, d.reason.replace(/^audit: /, "")));
}

function takeEvent(e) {
  const list = find("events");
  list.prepend(element("li", {}, element("time.muted", {}, clock(e.time_ms) + " "), element("b", {}, e.name), [e.group, e.node].filter(Boolean).join(" ") + (e.epoch ? " epoch " + e.epoch : "") + (e.text ? ": " + e.text : "")));
  while (list.children.length > 100) list.lastChild.remove();
  if (e.id) wantHistory();
  if (e.name === "audit" || e.name === "settings") wantSettings();
}

// ---- drills

async function loadDrills() {
  try {
    const answer = await ask("/web/drills");
    if (answer.drills.some((d) => d.id === drillEnded.id)) drillEnded.id = "";
    const rows = answer.drills.map((d) => ({ cells: [element("td.nowrap", {}, when(Date.parse(d.began))), element("td", {}, element("button.small", { type: "button", onclick: () => openDrill(d.id), "aria-label": "Report of " + d.drill + " of " + when(Date.parse(d.began)) }, d.drill)),
      d.group, element("td", {}, element("span.pill." + ({ passed: "good", failed: "bad" }[d.verdict] || "warn"), {}, d.verdict)), millis(d.detection_ms), millis(d.election_ms), millis(d.first_write_ms), millis(d.pause_ms), digits(d.writes), d.by] }));
    find("drill-list").replaceChildren(table(["Begun", "Drill", "Group", "Verdict", "#Detection", "#Election", "#First write", "#Longest pause", "#Writes checked", "By"], rows,
      answer.directory ? "No drill has been run yet. \u201cPlan a drill\u201d shows how." :
        "This configuration master is not told where reports of drills are kept: start it with --drills DIRECTORY, the one that smrctl drill writes to (smrctl drill history shows it)."));
  } catch (e) {
    if (!lost) notice("Drills: " + e.message, "bad");
  }
}

// planDrill shows what a drill would do to the group as it stands, what speaks against it, and the command that runs it.
async function planDrill(chosen) {
  const g = group();
  if (!g) return;
  let plan;
  try {
    plan = await ask("/web/drill-plan", { group: g.name, ...chosen });
  } catch (e) {
    return find("dialog").open ? dialogProblem(e.message) : notice("Drill: " + e.message, "bad");
  }
  const kind = plan.kinds.find((k) => k.name === plan.drill);
  const list = (items) => items.map((one) => element("li", {}, one));
  const what = element("select", { id: "plan-drill" }, ...plan.kinds.map((k) => element("option", { value: k.name }, k.name)));
  const node = element("select", { id: "plan-node" }, element("option", { value: "" }, "as the drill says"), ...g.replicas.filter((r) => r.node !== g.master).map((r) => element("option", { value: r.node }, r.node)));
  const hold = element("select", { id: "plan-hold" }, ...["4s", "8s", "20s", "60s"].map((t) => element("option", { value: t }, t)));
  what.value = plan.drill;
  node.value = chosen.node || "";
  hold.value = chosen.hold || "8s";
  const again = (fields) => planDrill({ drill: what.value, node: node.value, hold: hold.value, ...fields });
  what.addEventListener("change", () => again({ node: "" }));
  node.addEventListener("change", () => again({}));
  hold.addEventListener("change", () => again({}));
  const command = element("code", { id: "plan-command" }, plan.command);
  const copy = element("button.small", { type: "button", onclick: () => navigator.clipboard ? navigator.clipboard.writeText(plan.command).then(() => { copy.textContent = "Copied"; }, () => select(command)) : select(command) }, "Copy");
  openDialog("Plan a drill on group " + g.name, [element("label", {}, "Drill", what), ...(plan.may_node ? [element("label", {}, plan.drill === "switchover" ? "To" : "Node", node)] : []), element("label", {}, "Lasts", hold),
    element("p", {}, kind.what + ". If it passes: " + kind.proves + "."),
    element("h3", {}, "Looked at now"), element("ul.checks", { id: "plan-checks" }, ...plan.problems.map((one) => element("li.problem", {}, "✗ " + one)), ...plan.checks.map((one) => element("li", {}, "✓ " + one))),
    element("p", { id: "plan-verdict" }, plan.problems.length ? element("span.pill.bad", {}, "it would be refused now") : element("span.pill.good", {}, "nothing speaks against it")),
    element("h3", {}, "What it will do"), element("ol", {}, ...list(plan.steps)),
    element("h3", {}, "Run it"), element("p.command", {}, command, copy), element("p.muted", {}, "Give the command " + plan.where + ". It looks again, and asks before it does anything. This page shows how it goes on, and can abort it.")]);
  what.focus();
}

function select(node) {
  getSelection().selectAllChildren(node);
}

let drillTimer = 0;
let drillGone = "";
let drillEnded = { id: "", till: 0 }; // no process has its faults any more, and it may not be listed yet
async function followDrill() {
  clearTimeout(drillTimer);
  if (!now || !groupName || find("view-drills").hidden) return;
  let state = null;
  try {
    state = await ask("/web/drill-now", { group: groupName });
    showDrillNow(state);
  } catch { /* the banner says so, or the next look */ }
  drillTimer = setTimeout(followDrill, state && state.drill ? 1000 : 3000);
}

function showDrillNow(state) {
  const card = find("drill-now");
  if (drillGone && drillGone !== state.drill) drillEnded = { id: drillGone, till: Date.now() + 120000 };
  drillGone = state.drill;
  if (drillEnded.id && Date.now() < drillEnded.till) loadDrills(); // its report comes when the group is mended and checked
  card.hidden = !state.drill;
  if (!state.drill) return;
  const held = state.agents.filter((a) => a.faults.length), silent = state.agents.filter((a) => a.problem);
  const bottom = find("drill-steps"), follows = !bottom || bottom.scrollTop + bottom.clientHeight >= bottom.scrollHeight - 4;
  const focused = document.activeElement && document.activeElement.id === "drill-abort";
  card.replaceChildren(element("div.title", {}, element("h2", {}, "Under way: " + state.drill), element("button", { type: "button", id: "drill-abort", onclick: () => askAbort(state) }, "Abort…")),
    element("p", {}, "Run by " + state.by + ". " + (held.length ? "In force: " + held.map((a) => a.faults.join(", ") + " at " + a.name).join("; ") + "." : silent.length ? "No process that answers has a fault in force." : "No fault is in force now.") +
      (silent.length ? " Without an answer, as is who was cut off or stopped: " + silent.map((a) => a.name).join(", ") + "." : "")),
    state.known ? element("ol.events", { id: "drill-steps", tabIndex: 0, "aria-label": "What the drill has said" }, ...state.progress.map((s) => element("li", {}, element("time.muted", {}, clock(s.time_ms) + " "), s.text))) :
      element("p.muted", {}, "What it says line by line can be read where it is run, and here if --drills names the directory of its history. History shows what it does to the group."));
  if (follows && find("drill-steps")) find("drill-steps").scrollTop = find("drill-steps").scrollHeight;
  if (focused) find("drill-abort").focus();
}

function askAbort(state) {
  if (!mayChange()) return;
  const name = groupName;
  openDialog("Abort the drill", [element("p", {}, "Every process takes the faults of " + state.drill + " back at once. " + state.by + ", who runs it, is told: the group is mended and checked, and the verdict is aborted.")], "Abort it", async () => {
    const answer = await tell("/web/drill-abort", { group: name, drill: state.drill });
    notice(answer.text, "good");
    followDrill();
  });
}

async function openDrill(id) {
  try {
    const d = await ask("/web/drills/" + encodeURIComponent(id));
    const report = element("article.card", { tabIndex: -1 }, element("h2", {}, "Drill " + d.drill + " on group " + d.group), element("p", {}, element("span.pill." + ({ passed: "good", failed: "bad" }[d.verdict] || "warn"), {}, d.verdict), " " + (d.problems || []).join("; ")),
      element("p", {}, (d.what || "") + (d.victims && d.victims.length ? " (" + d.victims.join(", ") + ")" : "") + ". If it passes: " + (d.proves || "") + "."),
      element("dl.facts", {}, ...[["begun", when(Date.parse(d.began)) + " by " + d.by + ", " + Number(d.seconds).toFixed(1) + " s, id " + d.id],
        ["detection", millis(d.detection_ms) + " from the fault until an election began"], ["election", millis(d.election_ms) + " from then until the new master was established"],
        ["first write", millis(d.first_write_ms) + " from the fault until a write was acknowledged again"], ["longest pause", millis(d.pause_ms) + " without an acknowledged write on any node"], ["whole again", millis(d.mended_ms) + " from the fault"],
        ["master", d.master_before + " (epoch " + d.epoch_before + ") before, " + d.master_after + " (epoch " + d.epoch_after + ") after"],
        ["checked", digits(d.writes) + " acknowledged writes and " + digits(d.reads) + " reads of " + digits(d.keys) + " keys on " + d.nodes + " nodes; " + (d.violations || []).length + " broken promises; digests " + d.digests],
        ["errors seen", (d.errors || []).map((e) => e.name + " at " + e.node + (e.victim ? " (hit by the drill)" : "") + ": " + e.count).join("; ") || "none"]].flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)])),
      ...((d.violations || []).length ? [element("h3", {}, "Broken promises"), element("ul", {}, ...d.violations.map((v) => element("li", {}, v)))] : []),
      ...((d.writes_per_tenth || []).length ? [element("h3", {}, "Acknowledged writes in each tenth of a second; from the fault until the group was whole on red"), element("div.scroll", {}, drawDrill(d))] : []),
      element("h3", {}, "Timeline"), element("div.scroll", {}, table(["#Since the fault", "Who", "What"], (d.timeline || []).map((m) => ({ cells: [((m.at - (d.fault_at || 0)) / 1e9).toFixed(3) + " s", m.who, (m.name ? m.name + ": " : "") + m.text] })))));
    find("drill-report").replaceChildren(report);
    report.focus();
    report.scrollIntoView();
  } catch (e) {
    notice("Drill: " + e.message, "bad");
  }
}

function drawDrill(d) {
  const width = 1000, height = 150, floor = height - 20, bars = d.writes_per_tenth;
  const most = Math.max(1, ...bars), step = width / bars.length, x = (stamp) => stamp / 1e8 * step;
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Acknowledged writes over time, at most " + most + " in a tenth of a second" });
  if (d.fault_at) picture.append(drawn("rect.fault", { x: x(d.fault_at), y: 0, width: Math.max(1, x(d.mended_at || bars.length * 1e8) - x(d.fault_at)), height: floor }));
  bars.forEach((n, i) => picture.append(drawn("rect.bar", { x: i * step, y: floor - n * (floor - 14) / most, width: Math.max(0.5, step - 0.5), height: n * (floor - 14) / most })));
  for (const m of d.timeline || []) picture.append(drawn("line.mark", { x1: x(m.at), x2: x(m.at), y1: 0, y2: floor }, drawn("title", {}, m.who + ": " + m.text)));
  picture.append(drawn("text.soft.small", { x: 0, y: height - 4 }, "begin"), drawn("text.soft.small", { x: width, y: height - 4, "text-anchor": "end" }, (bars.length / 10).toFixed(1) + " s"), drawn("text.soft.small", { x: 2, y: 12 }, "up to " + most));
  return picture;
}

// ---- settings

let settings = null;
let settingsTimer = 0;
function wantSettings() {
  clearTimeout(settingsTimer);
  settingsTimer = setTimeout(loadSettings, 300);
}

async function loadSettings() {
  if (!now || !groupName || lost) return;
  try {
    settings = await ask("/web/settings", { group: groupName });
    showSettings();
  } catch (e) {
    if (!lost && !find("view-settings").hidden) notice("Settings: " + e.message, "bad");
  }
}

function showSettings() {
  const n = settings.differences.length;
  const count = find("drift-count");
  count.hidden = n === 0;
  count.textContent = n;
  count.setAttribute("aria-label", n + " differences");
  if (find("view-settings").hidden) return;
  find("drift").replaceChildren(element("h2", {}, "Drift"), ...(n ? [table(["Node", "Kind", "Name", "Wanted", "Has", "Why"],
    settings.differences.map((d) => ({ what: "tr.differs", cells: [element("td.nowrap", {}, element("strong", {}, d.node)), element("td", {}, d.kind), d.name, quoted(d.wanted), quoted(d.has), d.why] })))] :
    [element("p", {}, element("span.pill.good", {}, "none"), " Every node has what is on record (settings version " + settings.version + ").")]),
  ...settings.nodes.filter((one) => one.problem).map((one) => element("p.problem", {}, one.problem)));
  const sought = find("setting-find").value.toLowerCase(), all = find("setting-all").checked || sought !== "";
  const rows = settings.settings.filter((s) => (all || s.wanted !== null || s.differs) && s.name.includes(sought));
  find("setting-list").replaceChildren(table(["Name", "Wanted", "#Version", "Scope", ...settings.nodes.map((one) => one.node), ""], rows.map((s) => ({ what: s.differs ? "tr.differs" : "tr", cells: [
    element("td.nowrap", {}, element("strong", {}, s.name)), s.wanted === null ? "–" : quoted(s.wanted), s.version || "–", element("td", {}, s.scope), ...s.have.map(quoted),
    element("td", {}, s.scope === "fixed" || !session.may_change ? "" : element("button.small", { type: "button", onclick: () => askSetting(s.name, s.wanted === null ? s.have[0] : s.wanted), "aria-label": "Set " + s.name }, "Set…"))] })),
  sought ? "No setting is called so." : "Nothing is on record: smrctl config set NAME VALUE puts something there. Tick the box to see what the nodes have."));
  find("setting-history").replaceChildren(table(["#Version", "Time", "By", "What", "Name", "Value", "Before"], settings.history.map((h) => ({ cells: [h.version, element("td.nowrap", {}, when(h.time_ms)), h.by, element("td.nowrap", {}, h.what + " " + h.kind), h.name, quoted(h.value), quoted(h.before)] })), "Nothing has been changed yet."));
}

const quoted = (value) => value === "" ? "\"\"" : value;

// ---- log

let logPage = null;
function showLogNodes(g) {
  const select = find("log-node"), names = g.replicas.map((r) => r.node);
  if ([...select.options].map((o) => o.value).join() === names.join()) return;
  const chosen = names.includes(select.value) ? select.value : names.includes(g.master) ? g.master : names[0];
  select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  select.value = chosen || "";
  if (!find("view-log").hidden) loadLog({});
}

const pageLength = 25;
async function loadLog(where) {
  if (!now || !find("log-node").value) return;
  const newest = where.from === undefined && where.before === undefined;
  try {
    logPage = await ask("/web/records", { group: groupName, node: find("log-node").value, count: pageLength, ...(newest ? { before: "9007199254740991" } : where) });
    showLog();
  } catch (e) {
    find("log-list").replaceChildren(element("p.empty.problem", {}, e.message));
  }
}

function showLog() {
  const list = logPage.records;
  find("log-note").textContent = "Replica " + logPage.node + " holds LSN " + digits(logPage.start) + " to " + digits(logPage.end) + ", committed up to " + digits(logPage.commit) + "." +
    (logPage.bodies ? "" : " What clients wrote is shown to operators who log in.");
  find("log-older").disabled = find("log-first").disabled = !list.length || list[0].lsn <= logPage.start;
  const last = list[list.length - 1];
  find("log-newer").disabled = find("log-last").disabled = !last || last.lsn + last.size >= logPage.end;
  if (list.length) find("log-from").value = list[0].lsn;
  find("log-list").replaceChildren(table(["#LSN", "#Bytes", "#Epoch", "Time", "Kind", "#Requests", ""], list.map((r) => ({ what: r.committed ? "tr" : "tr.fresh", cells: [
    element("td.number.lsn", {}, digits(r.lsn)), digits(r.size), digits(r.epoch), element("td.nowrap", {}, r.time_ms ? when(r.time_ms) : ""), element("td.nowrap", {}, r.kind || "long"), r.count || "",
    element("td.wrap", {}, r.text, r.requests.length ? element("ul.requests", {}, ...r.requests.map((line) => element("li", {}, line))) : "", r.committed ? "" : element("span.pill.warn", {}, "not committed yet"))] })),
  "The log holds no frame there."));
}

// ---- logging in, and changes

async function loadSession() {
  try {
    session = await ask("/web/session");
    find("account").textContent = session.who ? "Log out " + session.who : "Log in";
  } catch { /* the banner says so */ }
}

let confirm = null;
const goesOn = Symbol("another dialog is open now");
function openDialog(title, body, label, act) {
  find("dialog-title").textContent = title;
  find("dialog-body").replaceChildren(...body);
  find("dialog-ok").textContent = label || "";
  find("dialog-ok").hidden = !label;
  find("dialog-ok").disabled = false;
  find("dialog-cancel").textContent = label ? "Cancel" : "Close";
  find("dialog-problem").hidden = true;
  confirm = act;
  if (!find("dialog").open) find("dialog").showModal();
}

function dialogProblem(text) {
  find("dialog-problem").textContent = text;
  find("dialog-problem").hidden = false;
}

find("dialog-cancel").addEventListener("click", () => find("dialog").close());
find("dialog-form").addEventListener("submit", async (e) => {
  e.preventDefault();
  find("dialog-ok").disabled = true;
  find("dialog-problem").hidden = true;
  try {
    if (await confirm() !== goesOn) find("dialog").close();
  } catch (problem) {
    dialogProblem(problem.message);
    find("dialog-ok").disabled = false;
  }
});

async function login(value) {
  await tell("/web/login", value);
  await loadSession();
  notice("Logged in as " + session.who + (session.may_change ? "." : ", who may look only."), "good");
  refresh();
}

function askLogin() {
  if (session.no_login) return openDialog("Nobody can log in here", [element("p", {}, "One can look, but " + session.no_login + ".")]);
  const code = element("input", { id: "code", autocomplete: "off", spellcheck: false, required: true });
  const body = [element("p", {}, "On a machine with your certificate run ", element("code", {}, "smrctl web login"), ". It gives a link that logs in, and a code. The page then may do what your certificate may, for at most eight hours."), element("label", {}, "Code", code)];
  if (session.certificate) body.push(element("p", {}, "Or with the certificate that your browser shows: ", element("button", { type: "button", onclick: () => login({ certificate: true }).then(() => find("dialog").close(), (p) => dialogProblem(p.message)) }, "log in as " + session.certificate)));
  openDialog("Log in", body, "Log in", () => login({ code: code.value }));
  code.focus();
}

function mayChange() {
  if (session.may_change) return true;
  if (session.who) openDialog("Not allowed", [element("p", {}, session.who + " may look only. A change needs a certificate with the role operator.")]);
  else askLogin();
  return false;
}

function askSwitchover() {
  const g = group();
  if (!g || !mayChange()) return;
  const choice = element("select", { id: "switch-to" }, element("option", { value: "" }, "the most suitable one"), ...g.replicas.filter((r) => r.node !== g.master && r.member && r.up).map((r) => element("option", { value: r.node }, r.node + (r.lag_bytes ? " (" + size(r.lag_bytes) + " behind)" : ""))));
  openDialog("Switch over group " + g.name, [element("p", {}, "Hands mastership over from " + (g.master || "nobody") + ". Nothing is lost; clients of living nodes see a short pause and no error."), element("label", {}, "New master", choice)], "Switch over", async () => {
    const answer = await tell("/web/switchover", { group: g.name, to: choice.value });
    notice("Group " + g.name + ", epoch " + answer.epoch + ": " + answer.text, "good");
    wantHistory();
  });
  choice.focus();
}

function askSetting(name, value) {
  if (!settings || !mayChange()) return;
  const nameField = element("input", { id: "set-name", value: name, required: true, autocomplete: "off", spellcheck: false }), valueField = element("input", { id: "set-value", value, autocomplete: "off", spellcheck: false });
  const version = settings.version;
  openDialog("Set on every node of group " + groupName, [element("label", {}, "Name", nameField), element("label", {}, "Value", valueField), element("p.muted", {}, "A name or value that a node does not take is refused, and nothing is changed.")], "Set", async () => {
    const answer = await tell("/web/settings", { group: groupName, version, forget: false, settings: [{ name: nameField.value.trim().toLowerCase(), value: valueField.value }] });
    notice("Settings version " + answer.version + ": " + answer.text, "good");
    setTimeout(loadSettings, 1500);
  });
  (name ? valueField : nameField).focus();
}

// change shows what a change of the group would do, and does that once it is confirmed. The version of the look goes with it: if somebody
// else has changed the group meanwhile, it is refused, and nothing is done.
async function change(title, label, what) {
  const g = group();
  const plan = await tell("/web/change", { group: g.name, dry_run: true, ...what });
  openDialog(title, [...(plan.checks.length ? [element("h3", {}, "Looked at"), element("ul", {}, ...plan.checks.map((one) => element("li", {}, one)))] : []),
    element("h3", {}, "What will be done"), element("ol", { id: "change-steps" }, ...(plan.steps.length ? plan.steps : [plan.text]).map((one) => element("li", {}, one)))], label, async () => {
    const answer = await tell("/web/change", { group: g.name, version: plan.version, ...what });
    notice("Group " + g.name + ": " + answer.text, "good");
    wantHistory();
  });
  find("dialog-ok").focus();
  return goesOn;
}

// field is a labelled input of a dialog, with a word of explanation.
function field(id, label, value, hint) {
  return element("label", {}, label, element("input", { id, value, autocomplete: "off", spellcheck: false, inputMode: "numeric", pattern: "[0-9]*", title: "a whole number" }), hint ? element("span.muted.hint", {}, hint) : "");
}

function askPolicies() {
  const g = group();
  if (!g || !mayChange()) return;
  const p = g.policy;
  const fields = { copies: ["Copies", "replicas that hold a write before it is acknowledged, the master included"], min_copies: ["At least", "copies go down to that by themselves while members are missing"],
    slow_bytes: ["Slow: bytes behind", "a member that is more behind its master counts as slow; 0: it does not"], slow_ms: ["Slow: milliseconds behind", ""], slow_for_ms: ["Dropped when slow for (milliseconds)", ""] };
  openDialog("Policies of group " + g.name, Object.entries(fields).map(([name, [label, hint]]) => field("policy-" + name, label, p[name], hint)), "Look…", () => {
    const policy = {};
    for (const name of Object.keys(fields)) {
      const text = find("policy-" + name).value.trim();
      if (!/^[0-9]{1,15}$/.test(text)) throw new Error(fields[name][0] + ": a whole number is needed");
      if (Number(text) !== p[name]) policy[name] = Number(text);
    }
    if (!Object.keys(policy).length) throw new Error("Nothing is different from now.");
    return change("Policies of group " + g.name, "Change them", { policy });
  });
  find("policy-copies").focus();
}

function askDrain(node, undo) {
  const g = group();
  if (!g || !mayChange()) return;
  if (undo) return openDialog("Take " + node + " back", [element("p", {}, "It becomes a member again once it has caught up.")], "Look…", () => change("Take " + node + " back", "Take it back", { drain: { node, switchover: false, undo: true } }));
  const hand = element("input", { id: "drain-hand", type: "checkbox", checked: node === g.master });
  openDialog("Drain " + node, [element("p", {}, "A drained replica goes on following, holds no copy that counts and never leads: its processes can be stopped, restarted or moved at leisure. \u201cTake back\u201d ends that."),
    element("label.choice", {}, hand, "if it leads, hand mastership over first")], "Look…", () => change("Drain " + node, "Drain it", { drain: { node, switchover: hand.checked, undo: false } }));
}

function askCancel() {
  const g = group();
  if (!g || !mayChange()) return;
  openDialog("Give the change up", [element("p", {}, "Under way: " + g.plan + ". It ends where it stands: a replica that was to leave stays, one that was added stays as well.")], "Look…", () => change("Give the change up", "Give it up", { cancel: true }));
}

// ---- moving about

const views = ["topology", "history", "drills", "settings", "log"];

function refresh() {
  loadSession().then(() => {
    const open = views.find((name) => !find("view-" + name).hidden);
    if (open === "history") loadHistory();
    if (open === "drills") { loadDrills(); followDrill(); }
    if (open === "log") loadLog(logPage && logPage.records.length ? { from: logPage.records[0].lsn } : {});
    loadSettings();
  });
}

function showView() {
  const hash = location.hash.slice(1);
  if (hash.startsWith("login=")) { // from smrctl web login; the code is good once
    history.replaceState(null, "", "#topology");
    loadSession().then(() => login({ code: hash.slice(6) })).then(() => { // the link may be opened in a tab that asks for the code
      if (find("dialog-title").textContent === "Log in") find("dialog").close();
    }).catch((e) => notice(e.message, "bad"));
  }
  const name = views.includes(hash) ? hash : "topology";
  for (const one of views) find("view-" + one).hidden = one !== name;
  for (const a of find("tabs").querySelectorAll("a")) {
    if (a.hash === "#" + name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = "Lockstep: " + name;
  if (now) showState();
  if (name === "history") loadHistory();
  if (name === "drills") { loadDrills(); followDrill(); }
  if (name === "settings") loadSettings();
  if (name === "log") loadLog({});
}

const themes = ["system", "light", "dark"];
const darkness = matchMedia("(prefers-color-scheme: dark)");
function showTheme() {
  const theme = localStorage.getItem("theme") || "system";
  document.documentElement.dataset.theme = theme === "system" ? darkness.matches ? "dark" : "light" : theme;
  find("theme").textContent = "Theme: " + (theme === "system" ? "as the system" : theme);
}

darkness.addEventListener("change", showTheme);
find("theme").addEventListener("click", () => {
  localStorage.setItem("theme", themes[(themes.indexOf(localStorage.getItem("theme") || "system") + 1) % themes.length]);
  showTheme();
});
find("account").addEventListener("click", async () => {
  if (!session.who) return askLogin();
  try {
    await tell("/web/logout", {});
    notice("Logged out.", "good");
  } catch (e) {
    notice(e.message, "bad");
  }
  refresh();
});
find("group").addEventListener("change", () => { groupName = find("group").value; settings = null; find("log-node").replaceChildren(); showState(); refresh(); });
find("switch").addEventListener("click", askSwitchover);
find("policies").addEventListener("click", askPolicies);
find("cancel-change").addEventListener("click", askCancel);
find("drill-plan").addEventListener("click", () => planDrill({}));
find("set").addEventListener("click", () => askSetting("", ""));
find("history-kind").addEventListener("change", showHistory);
find("setting-find").addEventListener("input", () => settings && showSettings());
find("setting-all").addEventListener("change", () => settings && showSettings());
find("log-form").addEventListener("submit", (e) => { e.preventDefault(); loadLog({ from: find("log-from").value || "0" }); });
find("log-node").addEventListener("change", () => loadLog({}));
find("log-first").addEventListener("click", () => loadLog({ from: "0" }));
find("log-last").addEventListener("click", () => loadLog({}));
find("log-older").addEventListener("click", () => logPage && loadLog({ before: logPage.records[0].lsn }));
find("log-newer").addEventListener("click", () => { const last = logPage.records[logPage.records.length - 1]; loadLog({ from: last.lsn + last.size }); });
addEventListener("hashchange", showView);
addEventListener("resize", () => now && showState());
setInterval(wantSettings, 15000);
setInterval(() => { if (!find("view-settings").hidden) wantSettings(); }, 3000);

showTheme();
showView();
loadSession();
connect();
