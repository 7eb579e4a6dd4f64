"use strict";
// The spot check: a clip at a time, what is wrong with it by keys, kept in the browser, saved as a file.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const place = "everreel-check-" + data.sample;
let answers = { ...data.answers };
let number = 0;
try {
  answers = JSON.parse(localStorage.getItem(place)) || answers;
} catch { /* a browser that keeps nothing */ }
while (number < data.clips.length && data.clips[number].name in answers) number += 1;
let marked = new Set(number < data.clips.length ? [] : answers[data.clips.at(-1).name]);

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(answers));
  } catch { /* as above */ }
}

function show() {
  const done = Object.keys(answers).length;
  const bad = Object.values(answers).filter((wrong) => wrong.length).length;
  at("progress").textContent = `${done} of ${data.clips.length} looked at, ${bad} bad`;
  at("bar").value = done;
  const over = number >= data.clips.length;
  at("task").hidden = over;
  at("done").hidden = !over;
  if (over) return;
  const clip = data.clips[number];
  at("strip").hidden = !clip.strip;
  at("gone").hidden = Boolean(clip.strip);
  if (clip.strip) at("strip").src = clip.strip;
  at("name").textContent = clip.name;
  at("facts").textContent = clip.facts;
  at("film").hidden = true;
  at("film").removeAttribute("src");
  at("film").load();
  for (const button of document.querySelectorAll("[data-group]")) {
    button.setAttribute("aria-pressed", marked.has(button.dataset.group));
  }
  at("next").textContent = marked.size ? "Bad, next" : "Good, next";
  at("next").className = marked.size ? "bad" : "good";
}

function toggle(group) {
  if (number >= data.clips.length) return;
  if (!marked.delete(group)) marked.add(group);
  show();
}

function go(to) {
  number = Math.max(0, Math.min(to, data.clips.length));
  const clip = data.clips[number];
  marked = new Set(clip ? answers[clip.name] || [] : []);
  show();
}

function next() {
  if (number >= data.clips.length) return;
  answers[data.clips[number].name] = [...marked].sort();
  keep();
  go(number + 1);
}

function play() {
  const clip = data.clips[number];
  if (!clip) return;
  at("film").hidden = false;
  at("film").src = `${clip.film}#t=${clip.start},${clip.stop}`;
  at("film").play().catch(() => {
    at("film").hidden = true;
    at("facts").textContent = "This browser cannot play the film; the frames are above.";
  });
}

function save() {
  const file = new Blob([JSON.stringify({ sample: data.sample, gate: data.gate, answers }, null, 1)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const groups = [...document.querySelectorAll("[data-group]")].map((button) => button.dataset.group);
for (const button of document.querySelectorAll("[data-group]")) {
  button.addEventListener("click", () => toggle(button.dataset.group));
}
at("next").addEventListener("click", next);
at("back").addEventListener("click", () => go(number - 1));
at("play").addEventListener("click", play);
for (const button of document.querySelectorAll(".save")) button.addEventListener("click", save);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const group = groups[Number(event.key) - 1];
  if (group) toggle(group);
  else if (event.key === "Enter" || event.key === "ArrowRight") next();
  else if (event.key === "ArrowLeft" || event.key === "Backspace") go(number - 1);
  else if (event.key === "p") play();
  else if (event.key === "s") save();
  else return;
  event.preventDefault();
});
show();
