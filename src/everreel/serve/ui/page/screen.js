// The screen: a film while it is made and afterwards. The video itself is a plain element on the server's own stream.
everreel.screen = ({ element, trigger, props, watch }) => {
  const { el, button, copy, seconds: told } = everreel;
  const NAMES = { pause: "Pause", resume: "Resume", cancel: "Stop", edit: "Use as draft", delete: "Delete" };
  let film = null;
  let shown = ""; // what the video plays: an address without its token
  let since = null; // { time, percent }: to tell how long it still takes
  let sure = null; // the film that is deleted when the button is pressed once more
  let doubt = 0;
  let opened = false; // what is there when the page opens does not scroll it

  const video = el("video", { controls: true, muted: true, autoplay: true, playsInline: true, loop: false, id: "er-video" });
  const preview = el("img", { className: "er-preview", alt: "A preview of what is being made" });
  const empty = el(
    "div",
    { className: "er-empty" },
    el("b", { textContent: "Your film appears here" }),
    el("span", { textContent: "block by block, while it is made" }),
  );
  const stage = el("div", { className: "er-stage" }, video, preview, empty);
  const bar = el("i");
  const progress = el("div", { className: "er-progress", role: "progressbar" }, bar);
  progress.setAttribute("aria-label", "How much of the film is made");
  const label = el("b", { id: "er-status" });
  const facts = el("span", { id: "er-facts" });
  const wrong = el("p", { className: "er-wrong", role: "alert" });
  const title = el("p", { className: "er-title" });
  const added = el("p", { className: "er-note er-lines", id: "er-made-whole" });
  const download = el("a", { className: "er-download", textContent: "Download" });
  const next = el("textarea", { rows: 2, id: "er-next", placeholder: "What happens next? Empty: more of the same" });
  next.setAttribute("aria-label", "What happens next");
  const more = el("input", { type: "number", min: 0.1, max: 3600, step: "any", value: 2, inputMode: "decimal", id: "er-more" });
  more.setAttribute("aria-label", "Seconds more");
  const go = button("Continue the film", () => act("extend", { prompt: next.value, seconds: more.valueAsNumber }), { id: "er-extend" });
  const extend = el(
    "div",
    { className: "er-extend" },
    next,
    el("div", { className: "er-extend-row" }, el("label", {}, more, el("span", { textContent: "s more" })), go),
  );
  const block = (name, id) => {
    const text = el("pre", { id });
    const told = el("span", { textContent: name });
    const press = button("Copy", async () => {
      await copy(text.textContent);
      press.textContent = "Copied";
      setTimeout(() => (press.textContent = "Copy"), 1500);
    }, { className: "er-quiet" });
    return [text, el("div", { className: "er-code" }, el("div", {}, told, press), text), told];
  };
  const [command, commandBox] = block("Command", "er-command");
  const [body, bodyBox, where] = block("", "er-body");
  const note = el("p", { className: "er-note", id: "er-note" });
  const made = el("details", { className: "er-made" }, el("summary", { textContent: "How to make it again" }), commandBox, note, bodyBox);

  const act = (action, rest = {}) => {
    for (const press of [...Object.values(presses), go]) press.disabled = true;
    trigger("act", { action, id: film.id, ...rest });
    setTimeout(drawButtons, 3000);
  };
  const press = (action) => {
    if (action === "edit") trigger("draft", { id: film.id });
    else if (action === "delete" && sure !== film.id) {
      sure = film.id;
      clearTimeout(doubt);
      doubt = setTimeout(() => ((sure = null), drawButtons()), 4000);
      drawButtons();
    } else act(action);
  };
  // The same elements for every film, as the screen is drawn anew each second; see `arrange`.
  const presses = Object.fromEntries(Object.keys(NAMES).map((action) => [action, button("", () => press(action), { className: `er-${action}` })]));
  const buttons = el("div", { className: "er-buttons" }, download, ...Object.values(presses));
  const drawButtons = () => {
    for (const [action, press] of Object.entries(presses)) {
      press.hidden = !film?.can.includes(action);
      press.disabled = false;
      press.textContent = action === "delete" && film && sure === film.id ? "Really delete?" : NAMES[action];
    }
    go.disabled = false;
    download.hidden = !film?.whole;
    if (!download.hidden) Object.assign(download, { href: film.video, download: `${film.id}.mp4` });
  };

  let stop = () => {};
  const play = () => {
    const address = film?.has_film ? film.video : "";
    const what = address.split("?")[0]; // the token may be a newer one
    const keeps = what && shown === `/v1/videos/${film.id}/stream` && !video.error && !video.ended;
    if (what === shown || keeps) return; // a film that has just been finished plays on
    stop();
    stop = () => {};
    shown = what;
    video.loop = Boolean(film && !film.live);
    if (film?.poster) video.poster = film.poster;
    else video.removeAttribute("poster");
    if (address && !film.whole) stop = everreel.live(video, address, () => again(what));
    else if (address) video.src = address;
    else {
      video.removeAttribute("src");
      video.load();
    }
  };
  const again = (broken) => {
    setTimeout(() => {
      if (film && shown === broken && broken) ((shown = ""), play());
    }, 2000);
  };
  video.addEventListener("ended", () => film && !film.live && play());
  video.addEventListener("error", () => again(shown));

  const left = () => {
    if (film.status !== "in_progress" || film.endless) return (since = null), "";
    const now = performance.now();
    if (!since || since.id !== film.id || film.percent < since.percent) since = { id: film.id, time: now, percent: film.percent };
    const gained = film.percent - since.percent;
    if (gained < 3) return "";
    return `about ${told(Math.max(1, Math.round((((now - since.time) / gained) * (100 - film.percent)) / 1000)))} left`;
  };
  const draw = () => {
    const before = film?.id ?? null;
    film = props.value && props.value.id ? props.value : null;
    if (film?.id !== before) next.value = ""; // it was said of another film
    if (film && opened && film.id !== before) stage.scrollIntoView({ block: "nearest", behavior: "smooth" });
    opened ||= Boolean(film);
    element.firstChild.classList.toggle("er-none", !film);
    play();
    const isShown = Boolean(film?.has_film);
    video.hidden = !isShown;
    preview.hidden = isShown || !film?.preview;
    if (film?.preview && preview.src !== film.preview) preview.src = film.preview;
    empty.hidden = isShown || Boolean(film?.preview);
    if (!film) return;
    empty.firstChild.textContent = film.label;
    empty.lastChild.textContent = film.live ? "The first frames appear here as soon as they are made" : "Nothing of it was made";
    stage.style.aspectRatio = film.shape;
    bar.style.width = `${film.percent}%`;
    progress.hidden = film.whole;
    progress.classList.toggle("er-endless", film.endless && film.status === "in_progress");
    progress.setAttribute("aria-valuenow", film.percent);
    label.textContent = film.label;
    label.dataset.status = film.status;
    const of = film.asked && film.status !== "completed" ? ` of ${told(film.asked)}` : "";
    const bits = [film.frames ? `${told(film.made)}${of}` : "", film.live && !film.endless ? `${film.percent} %` : "", left()];
    facts.textContent = bits.filter(Boolean).join(" · ");
    wrong.textContent = film.notice || film.error || "";
    wrong.hidden = !wrong.textContent;
    title.textContent = film.prompt;
    added.textContent = film.added;
    added.hidden = !film.added;
    extend.hidden = !film.can_extend;
    command.textContent = film.command;
    note.textContent = film.note;
    note.hidden = !film.note;
    where.textContent = `JSON for POST ${film.address}`;
    body.textContent = film.body;
    drawButtons();
  };

  const below = el("div", { className: "er-below" }, progress, el("div", { className: "er-state" }, label, facts), wrong, title, added, buttons, extend, made);
  element.replaceChildren(el("div", { className: "er-screen" }, stage, below));
  watch("value", draw);
  draw();
};
