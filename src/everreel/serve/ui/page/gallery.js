// All films of whoever looks, the newest first.
everreel.gallery = ({ element, trigger, props, watch }) => {
  const { el, button, arrange, seconds: told } = everreel;
  const cards = new Map(); // by film
  const make = (id) => {
    const frame = el("span", { className: "er-thumb" });
    const picture = el("img", { alt: "", loading: "lazy" });
    const bar = el("i");
    const name = el("span", { className: "er-name" });
    const label = el("small");
    const node = el("button", { type: "button", onclick: () => trigger("open", { id }) }, frame, name, label);
    const show = (film, chosen) => {
      node.className = `er-card${id === chosen ? " er-chosen" : ""}`;
      node.dataset.status = film.status;
      if (film.picture && film.picture !== picture.getAttribute("src")) picture.src = film.picture;
      bar.style.width = `${film.percent}%`;
      arrange(frame, [...(film.picture ? [picture] : []), ...(film.status === "in_progress" ? [bar] : [])]);
      name.textContent = film.prompt;
      label.textContent = film.label + (film.seconds ? ` · ${told(film.seconds)}` : "");
    };
    node.dataset.id = id;
    return { node, show };
  };
  const title = el("h3", { textContent: "Your films" });
  const list = el("div", { className: "er-cards" });
  const none = el("p", { className: "er-nothing", textContent: "No films yet. What you make is kept here." });
  const older = button("Older films", () => trigger("older"), { className: "er-quiet" });
  const box = el("div", { className: "er-gallery" });
  const draw = () => {
    const { films = [], chosen = "", more = false } = props.value || {};
    const shown = films.map((film) => {
      if (!cards.has(film.id)) cards.set(film.id, make(film.id));
      cards.get(film.id).show(film, chosen);
      return cards.get(film.id).node;
    });
    arrange(list, shown);
    for (const [id, { node }] of cards) if (!node.parentNode) cards.delete(id);
    arrange(box, [title, ...(films.length ? [] : [none]), list, ...(more ? [older] : [])]);
  };
  element.replaceChildren(box);
  watch("value", draw);
  draw();
};
