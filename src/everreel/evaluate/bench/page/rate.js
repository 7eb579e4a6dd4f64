// The rating page. Answers go into a queue in localStorage first and from there to the server, one after the other, each
// with a name of its own, so that an answer is neither lost when the connection drops nor counted twice.
// Whatever the server sends is shown as text; nothing of it becomes markup, code or an address but the names of tasks.
"use strict";

const $ = (id) => document.getElementById(id);
const CHOICES = {
  scores: [["1", "1"], ["2", "2"], ["3", "3"], ["4", "4"], ["5", "5"]],
  pairs: [["left", "A better"], ["tie", "Tie"], ["right", "B better"]],
};
const KEYS = {
  scores: "1–5 score · ↑ ↓ line · ← → less, more · Enter next · Space pause · R again · U undo",
  pairs: "← A better · → B better · T tie · ↑ ↓ line · Enter next · Space pause · R again · U undo",
};
const PAGE = newName();
const RETRY = { first: 1000, longest: 30000 };

let study = null;      // {title, study}
let rater = null;      // {name, code}
let axes = {};         // by kind: [{id, name, hint}]
let tasks = [];        // in order: {id, kind, films, prompt, check, picture}
let answers = new Map();  // task → {axis: value}, or null for a film that does not play; the last answered is the last
let queue = [];
let joining = false;
let sending = false;
let wait = RETRY.first;
let timer = 0;
let current = null;    // the task that is shown
let row = 0;           // the line that keys answer
let shownAt = 0;
let videos = [];
const ahead = [];      // films of the next task, being loaded

// ---- what the browser keeps

const place = (what) => `everreel:${study.study}:${what}`;

function kept(what, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(place(what))) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(what, value) {
  try {
    if (value === null) localStorage.removeItem(place(what));
    else localStorage.setItem(place(what), JSON.stringify(value));
  } catch {
    alertUser("This browser keeps nothing: do not close the page before all answers are saved.");
  }
}

function keepQueue() {
  keep(`queue:${rater.code}:${PAGE}`, queue.length ? queue : null);
}

// What this page or another, in a tab beside it or closed since, has not sent; sent twice it counts once.
function keptQueues() {
  const found = [];
  const prefix = place(`queue:${rater.code}:`);
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(prefix));
    for (const name of names) found.push(...JSON.parse(localStorage.getItem(name)));
    for (const name of names) localStorage.removeItem(name);
  } catch {
    // Nothing can be kept here, so nothing was.
  }
  return found.sort((a, b) => a.time - b.time);
}

// ---- the server

class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function accessKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  try {
    if (given) sessionStorage.setItem("everreel:key", given);
    return given || sessionStorage.getItem("everreel:key") || "";
  } catch {
    return given || "";
  }
}

async function ask(path, body) {
  const headers = { "X-Key": accessKey() };
  if (rater) headers.Authorization = `Bearer ${rater.code}`;
  if (body) headers["Content-Type"] = "application/json";
  let reply;
  try {
    const signal = AbortSignal.timeout(20000);
    reply = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch {
    throw new Failure("The connection is gone.", 0);
  }
  let said = null;
  try {
    said = await reply.json();
  } catch {
    // Not ours, as of a proxy in between: its status says enough.
  }
  if (!reply.ok || said === null) throw new Failure(said?.error || `The server says ${reply.status}.`, reply.status);
  return said;
}

function enqueue(event) {
  queue.push({ nonce: newName(), time: Date.now(), ...event });
  keepQueue();
  send();
}

function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function send() {
  if (sending) return;
  sending = true;
  clearTimeout(timer);
  let refused = false;
  while (queue.length) {
    showSaved();
    const event = queue[0];
    try {
      await ask("api/answer", event);
      wait = RETRY.first;
      alertUser("");
    } catch (failure) {
      if (failure.status === 400 || failure.status === 413) {
        // It would be refused again: it is put aside, so that those after it are saved.
        keep(`refused:${rater.code}`, [...kept(`refused:${rater.code}`, []), event]);
        answers.delete(event.task);
        refused = true;
        alertUser(`An answer was refused and is kept in this browser: ${failure.message}`);
      } else {
        alertUser(`${failure.message} ${queue.length} not saved yet; the page keeps trying.`);
        timer = setTimeout(send, wait);
        wait = Math.min(2 * wait, RETRY.longest);
        break;
      }
    }
    queue.shift();
    keepQueue();
  }
  sending = false;
  if (refused && !current) show();  // there was more to ask than it seemed
  else showSaved();
}

// ---- who is here

async function start() {
  try {
    study = await ask("api/study");
  } catch (failure) {
    alertUser(failure.message);
    if (failure.status === 0) setTimeout(start, 3000);
    return;
  }
  alertUser("");
  $("title").textContent = document.title = study.title;
  rater = kept("rater", null);
  if (rater) await load();
  else showOnly("join");
  if (!rater) $("name").focus();
}

async function load() {
  let told;
  try {
    told = await ask("api/tasks");
  } catch (failure) {
    if (failure.status === 401) {
      rater = null;
      showOnly("join");
    } else {
      setTimeout(load, 3000);
    }
    alertUser(failure.message);
    return;
  }
  ({ axes, tasks } = told);
  answers = new Map(Object.entries(told.answers));
  queue = keptQueues();
  keepQueue();
  for (const event of queue) apply(event);
  $("who").textContent = `${rater.name} · your code for another device: ${rater.code}`;
  alertUser("");
  show();
  send();
}

function apply(event) {
  answers.delete(event.task);
  if (!event.undo) answers.set(event.task, event.answer);
}

async function join(event) {
  event.preventDefault();
  if (joining) return;
  joining = true;
  $("join-error").hidden = true;
  try {
    rater = await ask("api/join", { name: $("name").value, code: $("code").value });
  } catch (failure) {
    $("join-error").textContent = failure.message;
    $("join-error").hidden = false;
    if (failure.status === 409) askForCode();
    return;
  } finally {
    joining = false;
  }
  keep("rater", rater);
  await load();
}

function askForCode() {
  $("code-field").hidden = false;
  $("have-code").hidden = true;
  $("code").focus();
}

// ---- what is shown

function showOnly(id) {
  for (const name of ["join", "task", "done"]) $(name).hidden = name !== id;
  $("undo").hidden = id === "join" || !answers.size;
  $("keys").textContent = id === "task" ? KEYS[current.kind] : "";
  document.body.className = id === "task" ? current.kind : "";
}

function show() {
  const left = tasks.filter((task) => !answers.has(task.id));
  const done = tasks.length - left.length;
  $("progress").textContent = `${done} of ${tasks.length} · ${left.length} left`;
  $("bar").value = tasks.length ? done / tasks.length : 1;
  stopFilms();
  current = left[0] ?? null;
  if (!current) {
    showOnly("done");
    showSaved();
    return;
  }
  showOnly("task");
  showSaved();
  $("prompt").textContent = current.prompt;
  showPicture();
  showCheck();
  showRows();
  showFilms();
  loadAhead(left[1]);
  shownAt = performance.now();
  // Away from the button that was pressed, so that Enter does not press it again, and to what is read first.
  $("prompt").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function showPicture() {
  $("start").hidden = !current.picture;
  $("picture").removeAttribute("src");  // so that nobody sees the last one while the next comes
  if (current.picture) $("picture").src = `picture/${current.id}`;
}

function showSaved() {
  $("saved").textContent = queue.length ? `${queue.length} to be saved` : answers.size ? "all saved" : "";
  $("saved").className = queue.length ? "waiting" : "";
  $("done-text").textContent = queue.length
    ? "Please leave this page open until the last answers are saved."
    : `All ${tasks.length} answers are saved. You may close this page.`;
}

function alertUser(text) {
  $("alert").textContent = text;
  $("alert").hidden = !text;
}

function showCheck() {
  $("check").hidden = !current.check;
  if (!current.check) return;
  const [, words] = CHOICES[current.kind].find(([value]) => value === current.check);
  $("check").textContent = `Here we only ask whether somebody is there: please answer “${words}” on every line.`;
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function showRows() {
  const draft = kept(`draft:${rater.code}`, {});
  const given = draft.task === current.id ? draft.values : {};
  $("rows").replaceChildren(...axes[current.kind].map((axis, number) => {
    const set = element("fieldset");
    set.append(element("legend", axis.name), element("p", axis.hint, "hint"));
    const choices = element("div", "", "choices");
    for (const [value, words] of CHOICES[current.kind]) {
      const label = element("label");
      const input = element("input");
      Object.assign(input, { type: "radio", name: axis.id, value, checked: String(given[axis.id]) === value });
      input.addEventListener("change", changed);
      label.append(input, element("span", words));
      choices.append(label);
    }
    set.append(choices);
    if (current.kind === "scores") {
      const ends = element("div", "", "ends");
      ends.append(element("span", "bad"), element("span", "excellent"));
      set.append(ends);
    }
    set.addEventListener("focusin", () => goTo(number));
    set.addEventListener("pointerdown", () => goTo(number));
    return set;
  }));
  const open = axes[current.kind].findIndex((axis) => !(axis.id in given));
  goTo(open < 0 ? 0 : open);
  changed();
}

function rows() {
  return Array.from($("rows").children);
}

function goTo(number) {
  row = Math.max(0, Math.min(number, rows().length - 1));
  rows().forEach((set, index) => set.classList.toggle("here", index === row));
}

function values() {
  const found = {};
  for (const axis of axes[current.kind]) {
    const input = $("answers").querySelector(`input[name="${axis.id}"]:checked`);
    if (input) found[axis.id] = current.kind === "scores" ? Number(input.value) : input.value;
  }
  return found;
}

function changed() {
  const found = values();
  const count = Object.keys(found).length;
  $("next").disabled = count < axes[current.kind].length;
  keep(`draft:${rater.code}`, count ? { task: current.id, values: found } : null);
}

// ---- films

function showFilms() {
  videos = Array.from({ length: current.films }, (_, side) => {
    const figure = element("figure", "", "film");
    const video = element("video");
    Object.assign(video, { muted: true, playsInline: true, preload: "auto", src: address(current, side) });
    video.addEventListener("loadeddata", playWhenReady);
    video.addEventListener("ended", again);
    video.addEventListener("timeupdate", showPosition);
    video.addEventListener("click", togglePlay);
    video.addEventListener("error", () => showBroken(figure, video));
    figure.append(video);
    if (current.films > 1) figure.append(element("figcaption", "AB"[side]));
    return { figure, video };
  });
  $("films").replaceChildren(...videos.map((shown) => shown.figure));
  videos = videos.map((shown) => shown.video);
  $("seek").value = 0;
}

function address(task, side) {
  return `film/${task.id}/${side}`;
}

function stopFilms() {
  for (const video of videos) {
    video.removeAttribute("src");
    video.load();
  }
  videos = [];
}

function loadAhead(task) {
  while (ahead.length) ahead.pop().removeAttribute("src");
  for (let side = 0; side < (task?.films ?? 0); side += 1) {
    const video = element("video");
    Object.assign(video, { preload: "auto", muted: true, src: address(task, side) });
    ahead.push(video);
  }
}

function playWhenReady() {
  if (videos.every((video) => video.readyState >= 2)) play();
}

function play() {
  // Two films run side by side, and both begin again when the longer has ended.
  for (const video of videos) {
    if (!video.ended) video.play().catch(() => { $("play").textContent = "Play"; });
  }
  $("play").textContent = "Pause";
}

function pause() {
  for (const video of videos) video.pause();
  $("play").textContent = "Play";
}

function again() {
  if (!videos.every((video) => video.ended || video.error)) return;
  for (const video of videos) video.currentTime = 0;
  play();
}

function fromTheStart() {
  for (const video of videos) video.currentTime = 0;
  play();
}

function togglePlay() {
  if (videos.some((video) => !video.paused && !video.ended)) pause();
  else play();
}

function longest() {
  return Math.max(...videos.map((video) => (Number.isFinite(video.duration) ? video.duration : 0)), 0);
}

function showPosition() {
  const length = longest();
  if (length) $("seek").value = Math.max(...videos.map((video) => video.currentTime)) / length;
}

function seek() {
  pause();
  for (const video of videos) video.currentTime = Math.min($("seek").value * longest(), video.duration || 0);
}

function showBroken(figure, video) {
  if (!video.hasAttribute("src")) return;
  const over = element("div", "", "broken");
  over.append(element("p", "This film does not play."));
  for (const [words, what] of [["Try again", () => { over.remove(); video.load(); }], ["Skip it", skip]]) {
    const button = element("button", words);
    button.type = "button";
    button.addEventListener("click", what);
    over.append(button);
  }
  figure.querySelector(".broken")?.remove();
  figure.append(over);
}

// ---- answers

function answer(given) {
  const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
  const event = { task: current.id, answer: given, seconds };
  keep(`draft:${rater.code}`, null);
  apply(event);
  enqueue(event);
  show();
}

function submit(event) {
  event.preventDefault();
  if (!$("next").disabled) answer(values());
}

function skip() {
  answer(null);
}

function undo() {
  const last = Array.from(answers.keys()).pop();
  if (last === undefined) return;
  const given = answers.get(last);
  const event = { task: last, undo: true };
  apply(event);
  keep(`draft:${rater.code}`, given && { task: last, values: given });
  enqueue(event);
  show();
}

function choose(value, moveOn = true) {
  const input = rows()[row]?.querySelector(`input[value="${value}"]`);
  if (!input) return;
  input.checked = true;
  changed();
  if (moveOn) goTo(row + 1);
}

function step(by) {
  const chosen = rows()[row].querySelector("input:checked");
  const value = chosen ? Number(chosen.value) + by : 3;
  choose(String(Math.max(1, Math.min(5, value))), false);
}

function pressed(event) {
  if ($("task").hidden || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key.toLowerCase() === "u" && !$("done").hidden) undo();
    return;
  }
  const onControl = event.target instanceof HTMLButtonElement || event.target === $("seek");
  if (onControl && ["Enter", " ", "ArrowLeft", "ArrowRight"].includes(event.key)) return;
  const scores = current.kind === "scores";
  const actions = {
    ArrowUp: () => goTo(row - 1),
    ArrowDown: () => goTo(row + 1),
    ArrowLeft: () => (scores ? step(-1) : choose("left")),
    ArrowRight: () => (scores ? step(1) : choose("right")),
    Enter: () => $("next").click(),
    " ": togglePlay,
    Backspace: undo,
    r: fromTheStart,
    u: undo,
  };
  if (scores) for (const [value] of CHOICES.scores) actions[value] = () => choose(value);
  else Object.assign(actions, { 1: () => choose("left"), 2: () => choose("tie"), 3: () => choose("right"), t: () => choose("tie") });
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || (event.repeat && ["Enter", "Backspace", "u"].includes(event.key))) return;
  event.preventDefault();
  action();
}

$("join-form").addEventListener("submit", join);
$("have-code").addEventListener("click", askForCode);
$("answers").addEventListener("submit", submit);
$("undo").addEventListener("click", undo);
$("play").addEventListener("click", togglePlay);
$("seek").addEventListener("input", seek);
$("picture").addEventListener("error", () => alertUser("The picture that this film was to begin with cannot be shown."));
document.addEventListener("keydown", pressed);
window.addEventListener("online", send);
window.addEventListener("beforeunload", (event) => { if (queue.length) event.preventDefault(); });
start();
