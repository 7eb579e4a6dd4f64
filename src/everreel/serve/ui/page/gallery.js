// All films of whoever looks, the newest first.
everreel.gallery = ({ element, trigger, props, watch }) => {
  const { el, button, seconds: told } = everreel;
  const card = (film, chosen) => {
    const frame = el("span", { className: "er-thumb" });
    if (film.picture) frame.append(el("img", { src: film.picture, alt: "", loading: "lazy" }));
    if (film.status === "in_progress") {
      const bar = el("i");
      bar.style.width = `${film.percent}%`;
      frame.append(bar);
    }
    const made = film.seconds ? ` · ${told(film.seconds)}` : "";
    const node = el(
      "button",
      { type: "button", className: `er-card${film.id === chosen ? " er-chosen" : ""}`, onclick: () => trigger("open", { id: film.id }) },
      frame,
      el("span", { className: "er-name", textContent: film.prompt }),
      el("small", { textContent: film.label + made }),
    );
    node.dataset.id = film.id;
    node.dataset.status = film.status;
    return node;
  };
  const draw = () => {
    const { films = [], chosen = "", more = false } = props.value || {};
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const list = el("div", { className: "er-cards" }, ...films.map((film) => card(film, chosen)));
    const none = films.length ? null : el("p", { className: "er-nothing", textContent: "No films yet. What you make is kept here." });
    const older = more ? button("Older films", () => trigger("older"), { className: "er-quiet" }) : null;
    element.replaceChildren(el("div", { className: "er-gallery" }, el("h3", { textContent: "Your films" }), none, list, older));
    if (focused) element.querySelector(`[data-id="${focused}"]`)?.focus();
  };
  watch("value", draw);
  draw();
};
