// The strip under the prompt: parts of the story and pictures, by time. Its value is what the order is made of.
everreel.timeline = ({ element, trigger, props, upload, watch }) => {
  const { el, button, arrange, seconds: told } = everreel;
  const STEPS = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 36000];
  const SENDING = "Sending the picture …";
  const clean = (value) => ({ seconds: 4, parts: [], pictures: [], loop: false, endless: false, ...(value || {}) });
  let state = clean(structuredClone(props.value));
  let selected = null; // { kind: "part" | "picture", item }
  let answer = null; // what waits for the server's word on a picture
  let note = "";
  let timer = 0;

  const commit = () => {
    clearTimeout(timer);
    timer = 0;
    state.parts.sort((a, b) => a.at - b.at);
    props.value = structuredClone(state);
  };
  const commitSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(commit, 250);
  };
  // Whoever writes and at once presses a button means what was written.
  for (const sign of ["pointerdown", "focusout", "keydown"]) {
    document.addEventListener(sign, (event) => timer && (sign !== "keydown" || event.key === "Enter" || event.key === "Tab") && commit(), true);
  }
  const changed = () => {
    commit();
    draw();
  };
  const snap = (at, low = 0) => Math.min(Math.max(Math.round(at * 10) / 10, low), Math.max(state.seconds - 0.1, low));
  const percent = (at) => `${(100 * Math.min(at / state.seconds, 1)).toFixed(3)}%`;

  const freeTime = () => {
    const last = state.parts.length ? Math.max(...state.parts.map((part) => part.at)) : 0;
    return snap((last + state.seconds) / 2, 0.1);
  };
  const addPart = () => {
    const item = { at: freeTime(), text: "" };
    state.parts.push(item);
    selected = { kind: "part", item };
    draw();
    editor.querySelector("textarea")?.focus();
    commit();
  };
  const remove = () => {
    const list = selected.kind === "part" ? state.parts : state.pictures;
    list.splice(list.indexOf(selected.item), 1);
    selected = null;
    changed();
  };

  // Pictures: shown small at once, sent, and only then part of the film.
  const file = el("input", { type: "file", accept: "image/*", className: "er-off", tabIndex: -1 });
  file.setAttribute("aria-label", "Choose a picture");
  let wantedAt = "start";
  const ask = (at) => {
    wantedAt = at;
    file.value = "";
    file.click();
  };
  const small = async (chosen) => {
    try {
      const bitmap = await createImageBitmap(chosen);
      const scale = Math.min(1, 144 / bitmap.width, 96 / bitmap.height);
      const canvas = el("canvas", {
        width: Math.max(1, Math.round(bitmap.width * scale)),
        height: Math.max(1, Math.round(bitmap.height * scale)),
      });
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      return canvas.toDataURL("image/jpeg", 0.7);
    } catch {
      return "";
    }
  };
  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    if (!chosen || answer) return;
    const at = wantedAt;
    note = SENDING;
    draw();
    try {
      const thumb = await small(chosen);
      const key = Math.random().toString(36).slice(2);
      const told = new Promise((resolve) => (answer = { key, resolve }));
      const sent = await upload(chosen);
      trigger("picture", { key, path: sent.path });
      const { id, error } = await told;
      note = error || "";
      if (id) {
        state.pictures = state.pictures.filter((picture) => picture.at !== at);
        const item = { at, id, thumb };
        state.pictures.push(item);
        selected = { kind: "picture", item };
        commit();
      }
    } catch (error) {
      note = `The picture could not be sent: ${error?.message || error}`;
    } finally {
      answer = null;
      draw();
    }
  });
  document.addEventListener("er-picture", (event) => {
    if (answer && event.detail.key === answer.key) answer.resolve(event.detail);
  });

  // What is drawn.
  const length = el("input", { type: "number", min: 0.1, max: 36000, step: "any", inputMode: "decimal" });
  length.id = "er-seconds";
  length.setAttribute("aria-label", "Length in seconds");
  const setLength = (value) => {
    if (!(value > 0)) return;
    state.seconds = Math.min(Math.round(value * 100) / 100, 36000);
    changed();
  };
  length.addEventListener("change", () => setLength(+length.value));
  length.addEventListener("blur", () => draw()); // what is no length gives way to the one that counts
  const longer = (by) => () => setLength(Math.max(state.endless ? 1 : 0.5, Math.round(state.seconds) + by));
  const toggle = (name, text, title) =>
    button(text, () => {
      const on = !state[name];
      Object.assign(state, { loop: false, endless: false, [name]: on }); // what is endless meets no beginning
      changed();
    }, { title, id: `er-${name}`, className: "er-toggle" });
  const loop = toggle("loop", "⟲ Loop", "The film's end meets its beginning");
  const endless = toggle("endless", "∞ Endless", "Goes on until you stop it");
  const head = el(
    "div",
    { className: "er-line-head" },
    el("h3", { textContent: "Timeline" }),
    el("div", { className: "er-length" }, button("−", longer(-1), { title: "Shorter" }), length, el("span", { textContent: "s" }), button("+", longer(1), { title: "Longer" })),
    loop,
    endless,
  );
  const strip = el("div", { className: "er-strip" });
  const editor = el("div", { className: "er-editor" });
  const tools = el(
    "div",
    { className: "er-tools" },
    button("+ Story part", addPart, { id: "er-add-part" }),
    button("+ Picture", () => ask(freeTime()), { id: "er-add-picture" }),
  );

  const movable = (node, entry, low) => {
    node.addEventListener("pointerdown", (down) => {
      const box = strip.querySelector(".er-tracks").getBoundingClientRect();
      const from = entry.item.at;
      let moved = false;
      const move = (event) => {
        if (!moved && Math.abs(event.clientX - down.clientX) < 5) return;
        moved = true;
        entry.item.at = snap(from + ((event.clientX - down.clientX) / box.width) * state.seconds, low);
        node.style.left = percent(entry.item.at);
      };
      const up = () => {
        node.removeEventListener("pointermove", move);
        node.removeEventListener("pointerup", up);
        node.removeEventListener("pointercancel", up);
        selected = entry;
        changed();
      };
      node.setPointerCapture(down.pointerId);
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", up);
      node.addEventListener("pointercancel", up);
    });
    node.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.1, ArrowRight: 0.1 }[event.key];
      if (by) {
        entry.item.at = snap(entry.item.at + by, low);
        selected = entry;
        changed();
        strip.querySelector(".er-chosen")?.focus();
      } else if (event.key === "Delete" || event.key === "Backspace") {
        selected = entry;
        remove();
      } else if (event.key === "Enter" || event.key === " ") {
        selected = entry;
        draw();
      }
    });
  };

  const isSelected = (item) => selected && selected.item === item;
  const placeOf = (item) => (typeof item.at === "string" ? item.at : "time");
  const nodes = new WeakMap(); // of parts and pictures: { node, where }
  const nodeOf = (item, where, make) => {
    if (nodes.get(item)?.where !== where) nodes.set(item, { node: make(), where });
    return nodes.get(item).node;
  };
  const opening = button("", () => document.querySelector("#er-prompt textarea")?.focus(), {
    className: "er-part er-opening",
    title: "The prompt, from the start",
  });
  opening.style.left = "0";
  const story = () => {
    const parts = [...state.parts].sort((a, b) => a.at - b.at);
    opening.textContent = document.querySelector("#er-prompt textarea")?.value.trim() || "your prompt";
    opening.style.width = percent(parts[0]?.at ?? state.seconds);
    const shown = parts.map((item, index) => {
      const until = parts[index + 1]?.at ?? state.seconds;
      const node = nodeOf(item, "part", () => {
        const made = button("", () => {});
        movable(made, { kind: "part", item }, 0.1);
        return made;
      });
      node.textContent = item.text.trim() || "…";
      node.className = `er-part${isSelected(item) ? " er-chosen" : ""}${item.at >= state.seconds ? " er-late" : ""}`;
      node.title = `From ${told(item.at)}`;
      node.style.left = percent(item.at);
      node.style.width = `calc(${percent(Math.max(until, item.at))} - ${percent(item.at)})`;
      return node;
    });
    return [opening, ...shown];
  };
  const picture = (item) => {
    const where = placeOf(item);
    const entry = { kind: "picture", item };
    const node = nodeOf(item, where, () => {
      const press = where === "time" ? {} : { onclick: () => ((selected = entry), draw()) };
      const made = el("button", { type: "button", ...press });
      made.append(item.thumb ? el("img", { src: item.thumb, alt: "", draggable: false }) : "🖼");
      if (where === "time") movable(made, entry, 0);
      return made;
    });
    node.className = `er-picture er-at-${where}${isSelected(item) ? " er-chosen" : ""}`;
    node.title = where === "time" ? `Picture at ${told(item.at)}` : `Picture at the ${where}`;
    node.setAttribute("aria-label", node.title);
    if (where === "time") node.style.left = percent(item.at);
    return node;
  };
  const slots = ["start", "end"].map((end) => [
    end,
    button(end === "start" ? "+ Start" : "+ End", () => ask(end), {
      className: `er-slot er-at-${end}`,
      title: end === "start" ? "A picture that the film begins with" : "A picture that the film ends with",
    }),
  ]);
  const pictures = () => {
    const free = slots.filter(([end]) => !state.pictures.some((item) => item.at === end) && !(end === "end" && state.endless));
    return [...free.map(([, slot]) => slot), ...state.pictures.map(picture)];
  };
  const ruler = () => {
    const step = STEPS.find((size) => state.seconds / size <= 6) || 36000;
    const line = el("div", { className: "er-ruler" });
    for (let at = 0; at <= state.seconds - step * 0.4; at += step) {
      const tick = el("span", { textContent: told(at) });
      tick.style.left = percent(at);
      line.append(tick);
    }
    line.append(el("span", { className: "er-last", textContent: state.endless ? "∞" : told(state.seconds) }));
    return line;
  };

  const timeRow = (item, low, name) => {
    const range = el("input", { type: "range", min: low, step: 0.1 });
    range.setAttribute("aria-label", "Time in seconds");
    const shown = el("output");
    edited.again = () => {
      range.max = Math.max(state.seconds - 0.1, low);
      range.value = item.at;
      shown.textContent = told(item.at);
    };
    edited.again();
    range.addEventListener("input", () => {
      item.at = +range.value;
      shown.textContent = told(item.at);
      drawStrip();
      commitSoon();
    });
    return el("label", { className: "er-time" }, el("span", { textContent: name }), range, shown);
  };
  const editPart = (item) => {
    const text = el("textarea", { rows: 2, value: item.text, placeholder: "What happens from here on?" });
    text.setAttribute("aria-label", "What happens from here on");
    text.addEventListener("input", () => {
      item.text = text.value;
      drawStrip();
      commitSoon();
    });
    return [timeRow(item, 0.1, "from"), text];
  };
  const editPicture = (item) => {
    const choices = el("div", { className: "er-choices", role: "group" });
    const where = placeOf(item);
    const put = (to) => () => {
      const at = to === where ? item.at : to === "time" ? snap(state.seconds / 2) : to;
      if (at !== item.at && state.pictures.some((other) => other !== item && other.at === at)) {
        note = `There is a picture at the ${at} already.`;
      } else {
        item.at = at;
        note = "";
      }
      changed();
    };
    for (const [text, to] of [["Start", "start"], ["At a time", "time"], ["End", "end"]]) {
      const choice = button(text, put(to));
      choice.setAttribute("aria-pressed", to === where);
      choices.append(choice);
    }
    return [choices, ...(where === "time" ? [timeRow(item, 0, "at")] : [])];
  };
  let edited = {}; // what the editor was made for
  const drawEditor = () => {
    editor.hidden = !selected;
    if (!selected) return;
    const { kind, item } = selected;
    if (edited.item === item && edited.where === placeOf(item)) return edited.again();
    edited = { item, where: placeOf(item), again: () => {} };
    editor.replaceChildren(
      el("div", { className: "er-editor-head" },
        el("b", { textContent: kind === "part" ? "Story part" : "Picture" }),
        button("Remove", remove, { className: "er-quiet" }),
        button("Done", () => { selected = null; draw(); }, { className: "er-quiet" })),
      ...(kind === "part" ? editPart(item) : editPicture(item)),
    );
  };
  const storyTrack = el("div", { className: "er-track er-story" });
  const pictureTrack = el("div", { className: "er-track er-pictures" });
  const tracks = el("div", { className: "er-tracks" }, storyTrack, pictureTrack);
  const drawStrip = () => {
    arrange(strip, [ruler(), tracks]);
    arrange(storyTrack, story());
    arrange(pictureTrack, pictures());
  };
  const said = el("p", { className: "er-note", role: "status" });
  const draw = () => {
    if (document.activeElement !== length) length.value = state.seconds;
    length.disabled = state.endless;
    loop.setAttribute("aria-pressed", state.loop);
    endless.setAttribute("aria-pressed", state.endless);
    said.textContent = note;
    said.hidden = !note;
    said.classList.toggle("er-wrong", note !== SENDING);
    drawStrip();
    drawEditor();
  };

  watch("value", () => {
    if (timer || answer) return; // somebody is writing; theirs is the newer
    state = clean(structuredClone(props.value));
    selected = null;
    draw();
  });
  document.addEventListener("input", (event) => {
    if (event.target.closest?.("#er-prompt")) drawStrip();
  });
  // It was made whole, or put back; its field has the new words a moment later.
  document.addEventListener("er-prompt", () => requestAnimationFrame(drawStrip));
  element.replaceChildren(el("div", { className: "er-line" }, head, strip, tools, file, said, editor));
  draw();
};

// The server's word on a picture.
everreel.answers = ({ props, watch }) => {
  watch("value", () => document.dispatchEvent(new CustomEvent("er-picture", { detail: props.value || {} })));
};
