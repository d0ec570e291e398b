"use strict";

const here = location.origin + location.pathname.replace(/\/$/, "");

// Snippets: insert this server's address and the filter, and offer to copy them.

const snippets = [...document.querySelectorAll("figure code")].map((code) => ({
  code,
  text: code.textContent,
}));

/** Show in each snippet the query that has the filter; it may hold any text. */
function showSnippets(query) {
  for (const { code, text } of snippets) {
    const quoted = query.replaceAll("'", "%27");
    code.textContent = text.replace(/(ws|http):\/\/localhost:8080([^'"\s]*)/g, (_, scheme, path) => {
      const base = scheme === "ws" ? here.replace(/^http/, "ws") : here;
      return base + path + (quoted && (path.includes("?") ? "&" : "?")) + quoted;
    });
  }
}

showSnippets("");
for (const { code } of snippets) {
  if (!navigator.clipboard) break;
  const caption = code.parentElement.previousElementSibling;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy: " + caption.textContent.trim());
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy" }, 1500);
  });
  caption.append(button);
}

// The live list. Names come from certificates, which anyone can request: every text from a message
// is set by textContent.

const MAX_ROWS = 50;
const RENDER_MS = 250;
const RATE_SECS = 5;
const TYPING_MS = 500;
const MAX_RETRY_MS = 30000;

const live = document.getElementById("live");
if (live) runLive(live);

function runLive(section) {
  const find = (id) => document.getElementById(id);
  const [filter, named, names, problem, access, token, pause, state, rows] =
    ["filter", "named", "names", "problem", "access", "token", "pause", "state", "rows"].map(find);
  let connection = null; // AbortController of the request, null when there is none
  let streaming = false; // the server has accepted the request
  let retryMs = 1000;
  let retryTimer = 0;
  let lastId = ""; // of the newest message; "" to begin with the next one
  let pending = []; // data of messages that are not shown yet, at most MAX_ROWS
  let paused = false;
  let counts = []; // messages received in each of the last RATE_SECS seconds
  let received = 0;

  const lines = () => filter.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const filterQuery = () => [
    ...named.value.split(/\s+/).filter(Boolean).map((name) => "filter=" + encodeURIComponent(name)),
    ...lines().map((line) => "match=" + encodeURIComponent(line)),
  ].join("&");

  function showState(text) {
    state.textContent = text;
  }

  function connect() {
    disconnect();
    if (document.hidden) return;
    showState("Connecting …");
    connection = new AbortController();
    read(connection.signal).catch((error) => {
      if (error.name !== "AbortError") retry("Not connected");
    });
  }

  function disconnect() {
    clearTimeout(retryTimer);
    connection?.abort();
    connection = null;
    streaming = false;
  }

  function retry(why, afterMs = retryMs) {
    disconnect();
    retryMs = Math.min(2 * retryMs, MAX_RETRY_MS);
    showState(why + "; trying again in " + Math.ceil(afterMs / 1000) + " s");
    retryTimer = setTimeout(connect, afterMs);
  }

  async function read(signal) {
    const query = [`stream=${section.dataset.stream}`, filterQuery()];
    if (lastId) query.push("cursor=" + lastId);
    const headers = { Accept: "text/event-stream" };
    if (token.value) headers.Authorization = "Bearer " + token.value;
    const url = here + "/sse?" + query.filter(Boolean).join("&");
    const response = await fetch(url, { headers, signal, cache: "no-store", credentials: "omit" });
    if (!response.ok) return refused(response);
    showProblem("");
    streaming = true;
    retryMs = 1000;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return retry("The server closed the connection");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) take(event);
    }
  }

  /** Take one event: its `id:` line moves the position, its `data:` line is a message. */
  function take(event) {
    for (const line of event.split("\n")) {
      if (line.startsWith("id:")) lastId = line.slice(3).trim();
      if (!line.startsWith("data:")) continue;
      received += 1;
      pending.push(line.slice(5));
      if (pending.length > MAX_ROWS) pending.shift();
    }
  }

  async function refused(response) {
    let body = {};
    try { body = await response.json() } catch { /* another server's error page */ }
    const text = body.error || "HTTP " + response.status;
    if (response.status === 401 || response.status === 403) {
      access.hidden = false;
      disconnect();
      showState(text);
    } else if (response.status === 400) {
      disconnect();
      lastId = "";
      showProblem(text, body.term, body.position);
      showState("Not connected");
    } else {
      const secs = Number(response.headers.get("Retry-After"));
      retry(text, secs > 0 ? 1000 * secs : undefined);
    }
  }

  /** Show what is wrong with the filter, with the line and the wrong term marked in it. */
  function showProblem(text, term, position) {
    problem.replaceChildren(text);
    const isNamed = term !== undefined && named.value.split(/\s+/).includes(term);
    filter.setAttribute("aria-invalid", String(text !== "" && !isNamed));
    named.setAttribute("aria-invalid", String(text !== "" && isNamed));
    const wrong = term && lines().find((line) => line.startsWith(term, position));
    if (!wrong) return;
    const mark = document.createElement("mark");
    mark.textContent = term;
    const code = document.createElement("code");
    code.append(wrong.slice(0, position), mark, wrong.slice(position + term.length));
    problem.append(document.createElement("br"), code);
  }

  function render() {
    if (document.hidden || paused || pending.length === 0) return;
    const added = [];
    for (const data of pending) {
      const message = JSON.parse(data);
      if (message.message_type === "gap") continue;
      added.unshift(row(message));
    }
    pending = [];
    rows.prepend(...added);
    while (rows.childElementCount > MAX_ROWS) rows.lastElementChild.remove();
  }

  function row(message) {
    const data = message.data;
    const names = Array.isArray(data) ? data : data.leaf_cert.all_domains;
    const matched = new Set((message.matched || []).map((each) => each.name));
    const summary = document.createElement("summary");
    const time = document.createElement("time");
    const seen = new Date(Number(message.id.split("-", 1)[0]));
    time.dateTime = seen.toISOString();
    time.textContent = seen.toLocaleTimeString([], { hourCycle: "h23" });
    const list = document.createElement("span");
    list.className = "names";
    const inOrder = [...names.filter((name) => matched.has(name)), ...names.filter((name) => !matched.has(name))];
    inOrder.slice(0, 20).forEach((name, index) => {
      if (index) list.append(", ");
      const element = document.createElement(matched.has(name) ? "mark" : "span");
      element.textContent = name;
      list.append(element);
    });
    if (inOrder.length > 20) list.append(` and ${inOrder.length - 20} more`);
    const by = document.createElement("span");
    by.className = "by";
    const issuer = Array.isArray(data) ? null : data.leaf_cert.issuer;
    by.textContent = issuer ? issuer.O || issuer.CN || "" : "";
    summary.append(time, list, by);
    const details = document.createElement("details");
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      const pre = document.createElement("pre");
      pre.tabIndex = 0;
      pre.textContent = JSON.stringify(message, null, 2);
      details.append(pre);
      setPaused(true); // otherwise the row would move while it is read
    });
    const item = document.createElement("li");
    item.append(details);
    return item;
  }

  function setPaused(value) {
    paused = value;
    pause.textContent = paused ? "Continue" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    render();
  }

  function showRate() {
    counts = [...counts, received].slice(-RATE_SECS);
    received = 0;
    if (!streaming) return;
    const rate = counts.reduce((sum, count) => sum + count, 0) / counts.length;
    showState((paused ? "Paused; " : "") + (rate < 10 ? rate.toFixed(1) : Math.round(rate)) + " certificates a second");
  }

  function setFilter() {
    const query = filterQuery();
    // The fragment is not sent to servers, and keeps the filter in bookmarks and links.
    history.replaceState(null, "", query ? "#" + query : location.pathname + location.search);
    showSnippets(query);
    restart();
  }

  /** Connect anew, from the next message on, with an empty list. */
  function restart() {
    lastId = "";
    pending = [];
    counts = [];
    rows.replaceChildren();
    setPaused(false);
    connect();
  }

  function readFragment() {
    const given = new URLSearchParams(location.hash.slice(1));
    filter.value = given.getAll("match").join("\n");
    named.value = given.getAll("filter").join(" ");
    if (named.value) names.hidden = false;
    showSnippets(filterQuery());
    restart();
  }

  let typing = 0;
  for (const input of [filter, named]) {
    input.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(setFilter, TYPING_MS);
    });
  }
  token.addEventListener("change", restart);
  section.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    restart();
  });
  pause.addEventListener("click", () => setPaused(!paused));
  addEventListener("hashchange", readFragment);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    disconnect();
    lastId = ""; // begin with the next message, rather than with all since
  });
  setInterval(render, RENDER_MS);
  setInterval(showRate, 1000);
  readFragment();
}
