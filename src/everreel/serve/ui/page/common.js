// What the parts of the page share. Words of people become text of the document, never markup.
window.everreel = (() => {
  const el = (tag, props = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name in made && name !== "list") made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  const button = (text, onclick, props = {}) => el("button", { type: "button", onclick, textContent: text, ...props });

  // Just these, in this order; what is there already stays where it is. A press on an element that is replaced before it
  // is let go is none, so what can be pressed is kept while all around it is drawn anew.
  const arrange = (parent, nodes) => {
    const kept = new Set(nodes);
    for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
    nodes.forEach((node, index) => parent.children[index] !== node && parent.insertBefore(node, parent.children[index] ?? null));
  };

  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = el("textarea", { value: text, className: "er-off" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  const seconds = (value) => {
    if (value < 60) return `${+value.toFixed(1)} s`;
    const whole = Math.round(value);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
  };

  return { el, button, arrange, copy, seconds };
})();
