// The page of the policy server: one WebSocket in, everything drawn from it. No library, no other host.
"use strict";

const $ = (id) => document.getElementById(id);
const HISTORY = 160;
const SERIES = 7;

let socket = null;
let pause = 250;
let spec = null;
let demo = null;
let watched = null;
let histories = [];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- the connection ---------------------------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  socket.onopen = () => {
    const key = sessionStorage.getItem("key");
    if (key) socket.send(JSON.stringify({ key }));
    else askForKeyIfSilent();
  };
  socket.onmessage = (event) => {
    pause = 250;
    const message = JSON.parse(event.data);
    ({ hello, action, totals, refused })[message.kind]?.(message);
  };
  socket.onclose = (event) => {
    showState("lost", "connection lost");
    if (event.code === 1008) askForKey();
    else setTimeout(connect, pause);
    pause = Math.min(5000, pause * 2);
  };
}

// A server without keys greets at once; one with keys waits for ours.
function askForKeyIfSilent() {
  const opened = socket;
  setTimeout(() => { if (!spec && opened === socket && socket.readyState === WebSocket.OPEN) askForKey(); }, 800);
}

function askForKey() {
  sessionStorage.removeItem("key");
  if (!$("locked").open) $("locked").showModal();
}

$("locked").addEventListener("close", () => {
  sessionStorage.setItem("key", $("key").value);
  $("key").value = "";
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ key: sessionStorage.getItem("key") }));
  else connect();
});

function send(command) {
  $("notice").textContent = "";
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

// --- messages ---------------------------------------------------------------------------------------------------

function hello({ metadata, demo: scenes }) {
  spec = metadata.action;
  $("checkpoint").textContent = metadata.checkpoint.name;
  $("checkpoint").title = metadata.checkpoint.fingerprint ?? "";
  $("notice").textContent = "";
  buildDimensions();
  demo = scenes;
  $("say").hidden = !scenes;
  if (scenes) buildScenes(scenes);
}

function action(message) {
  watched ??= message.client;
  if (message.client !== watched) return;
  $("camera").src = `data:image/jpeg;base64,${message.image}`;
  $("camera").classList.add("shown");
  $("told").textContent = message.instruction;
  $("told").classList.remove("none");
  $("who").textContent = `${message.client}, ${message.latency_ms.toFixed(0)} ms`;
  const flagged = new Set([...message.flags.clipped, ...message.flags.slowed]);
  spec.names.forEach((name, n) => {
    for (const row of message.values) histories[n].push(row[n]);
    histories[n].splice(0, histories[n].length - HISTORY);
    showDimension(n, message.values[0][n], message.confidence?.[0][n], flagged.has(name) || message.flags.held);
  });
  if (message.flags.held) $("who").textContent += `, held: ${message.flags.held.replaceAll("_", " ")}`;
}

function totals(message) {
  showState(message.state === "ready" ? "ready" : "waiting", message.state);
  for (const name of ["answered", "refused", "waiting"]) $(name).textContent = message[name].toLocaleString("en");
  showHistogram(message.histogram);
  showClients(message.clients);
  if (message.demo) showEpisode(message.demo);
}

function refused({ error }) {
  $("notice").textContent = error;
}

// --- what is drawn ----------------------------------------------------------------------------------------------

function showState(kind, words) {
  $("state").className = kind;
  $("state").lastElementChild.textContent = words;
}

function buildDimensions() {
  histories = spec.names.map(() => []);
  $("dimensions").replaceChildren(...spec.names.map((name, n) => {
    const row = make("div", "dimension");
    const label = make("b", "", name);
    label.append(make("small", "", spec.units[n] === "1" ? "" : spec.units[n]));
    const sure = make("span", "sure");
    sure.append(make("span", "", "–"), make("i"));
    sure.title = "probability of the chosen value";
    row.append(label, make("canvas"), make("output", "", "–"), sure);
    return row;
  }));
}

function showDimension(n, value, confidence, flagged) {
  const row = $("dimensions").children[n];
  row.classList.toggle("flagged", Boolean(flagged));
  row.querySelector("output").textContent = value.toFixed(3);
  if (confidence !== undefined) {
    row.querySelector(".sure span").textContent = `${(100 * confidence).toFixed(0)} % sure`;
    row.querySelector(".sure i").style.setProperty("--p", confidence);
  }
  drawLine(row.querySelector("canvas"), histories[n], spec.low[n], spec.high[n], n);
}

function drawLine(canvas, values, low, high, n) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.width = canvas.clientWidth * scale;
  const height = canvas.height = canvas.clientHeight * scale;
  const bottom = low ?? Math.min(...values, -1e-6), top = high ?? Math.max(...values, 1e-6);
  const style = getComputedStyle(document.documentElement);
  const y = (value) => height - (0.06 + 0.88 * (value - bottom) / (top - bottom || 1)) * height;
  const pen = canvas.getContext("2d");
  pen.strokeStyle = style.getPropertyValue("--rule");
  pen.lineWidth = scale;
  pen.beginPath();
  pen.moveTo(0, y(Math.max(bottom, Math.min(top, 0))));
  pen.lineTo(width, y(Math.max(bottom, Math.min(top, 0))));
  pen.stroke();
  pen.strokeStyle = style.getPropertyValue(`--s${n % SERIES}`);
  pen.lineWidth = 1.75 * scale;
  pen.lineJoin = "round";
  pen.beginPath();
  values.forEach((value, i) => pen.lineTo(width * (i + HISTORY - values.length) / (HISTORY - 1), y(value)));
  pen.stroke();
}

function showHistogram({ upper_ms: upper, counts }) {
  const most = Math.max(...counts, 1), all = counts.reduce((sum, count) => sum + count, 0);
  const first = Math.max(0, counts.findIndex((count) => count) - 1);
  const last = Math.min(upper.length - 1, counts.findLastIndex((count) => count) + 1);
  const bars = [];
  for (let n = first; all && n <= Math.max(last, first + 5) && n < counts.length; n++) {
    const bar = make("div"), column = make("i");
    column.style.setProperty("--h", counts[n] / most);
    bar.title = `${counts[n]} up to ${upper[n] ?? "∞"} ms`;
    bar.append(column, make("span", "", n < upper.length ? String(upper[n]) : ""));
    bars.push(bar);
  }
  $("histogram").replaceChildren(...(all ? bars : [make("small", "", "no request yet")]));
  let sum = 0;
  const middle = counts.findIndex((count) => (sum += count) >= all / 2);
  $("median").textContent = all ? (middle < upper.length ? `≤ ${upper[middle]} ms` : "long") : "–";
}

function showClients(clients) {
  $("clients").querySelector("tbody").replaceChildren(...clients.map((client) => {
    const row = make("tr", client.name === watched ? "watched" : "");
    row.tabIndex = 0;
    row.onclick = row.onkeydown = (event) => {
      if (event.key && event.key !== "Enter") return;
      watched = client.name;
      buildDimensions();
      row.parentElement.querySelectorAll("tr").forEach((other) => other.classList.toggle("watched", other === row));
    };
    const cells = [client.name, client.protocol, client.instruction, client.hz.toFixed(1), client.latency_ms.toFixed(0),
      client.actions, client.flagged];
    row.append(...cells.map((cell, n) => make("td", n === 2 ? "wide" : "", String(cell))));
    return row;
  }));
}

// --- the demo ---------------------------------------------------------------------------------------------------

function buildScenes(scenes) {
  const names = Object.keys(scenes);
  $("scene").replaceChildren(...names.map((name) => new Option(name.replaceAll("-", " "), name)));
  $("instruction").value = scenes[names[0]];
  $("scene").onchange = () => { $("instruction").value = scenes[$("scene").value]; };
  $("ideas").replaceChildren(...names.map((name) => {
    const idea = make("button", "", scenes[name]);
    idea.type = "button";
    idea.onclick = () => { $("scene").value = name; $("instruction").value = scenes[name]; play(); };
    return idea;
  }));
}

function play() {
  watched = "simulator";
  send({ do: "play", scene: $("scene").value, instruction: $("instruction").value });
}

$("say").onsubmit = (event) => { event.preventDefault(); play(); };
$("stop").onclick = () => send({ do: "stop" });

function showEpisode({ state, steps, error }) {
  const words = { playing: `step ${steps}`, success: `done in ${steps} steps`, failure: `not done in ${steps} steps`,
    broken: error };
  $("episode").className = state;
  $("episode").textContent = words[state] ?? "";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.querySelectorAll(".dimension canvas").forEach((canvas, n) => {
    if (histories[n].length) drawLine(canvas, histories[n], spec.low[n], spec.high[n], n);
  });
});

$("told").classList.add("none");
connect();
