"use strict";
(() => {
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  root.classList.add("js");

  const themes = ["auto", "light", "dark"];
  const theme = by("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
    if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
    theme.textContent = "Theme: " + next;
  });

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // What is folded away on screen belongs on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open])")];
    for (const d of opened) d.open = true;
  });
  addEventListener("afterprint", () => { for (const d of opened) d.open = false; });

  const cards = by("cards");
  if (!cards) return;
  const records = JSON.parse(by("records").textContent);
  const all = [...cards.children];
  by("order").addEventListener("change", (event) => {
    const key = event.target.value;
    const rank = (c) => (key === "flow" ? Number(c.dataset.group) : -Number(c.dataset[key]));
    cards.append(...[...all].sort((a, b) => rank(a) - rank(b) || a.dataset.group - b.dataset.group));
  });

  const space = document.querySelector("svg").namespaceURI;
  const el = (name, attributes, ...children) => {
    const node = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const text = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))));

  function plot(group) {
    const { low } = records;
    let high = records.high; // shared by all groups, so that they compare, unless the harm goes beyond it
    while (Math.max(0, ...group.errors, ...group.floor, ...group.hurt) > high) high *= 10;
    const span = Math.log10(high) - Math.log10(low);
    const x = (v) => v / Math.max(1, group.size);
    const y = (v) => (v <= low ? 0 : Math.min(1, (Math.log10(v) - Math.log10(low)) / span));
    const path = (values) => {
      let d = "", down = false;
      values.forEach((v, i) => {
        if (v === null) { down = false; return; }
        d += (down ? "L" : "M") + Math.round(1000 * x(group.at[i])) + " " + Math.round(1000 * (1 - y(v)));
        down = true;
      });
      return d;
    };
    const pc = (v) => (100 * v).toFixed(2) + "%";
    const svg = el("svg", { class: "chart", role: "img", "aria-label": group.name + ": error by units kept" });
    for (let e = Math.round(Math.log10(low)); e <= Math.round(Math.log10(high)); e += 1) {
      const at = pc(1 - y(10 ** e));
      svg.append(el("line", { class: "grid", x1: 0, x2: "100%", y1: at, y2: at }));
      svg.append(el("text", { x: -8, y: at, dy: ".32em", "text-anchor": "end" }, e < -3 ? "1e" + e : String(Number((10 ** e).toPrecision(1)))));
    }
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(el("line", { class: "grid", x1: pc(part), x2: pc(part), y1: 0, y2: "100%" }));
      svg.append(el("text", { x: pc(part), y: "100%", dy: "1.5em", "text-anchor": "middle" }, String(Math.round(part * group.size))));
    }
    const inner = el("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", width: "100%", height: "100%" });
    for (const [key, css] of [["floor", "bound"], ["hurt", "hurt"], ["errors", "kept"]])
      if (group[key].length) inner.append(el("path", { class: "curve " + css, d: path(group[key]) }));
    const rule = el("line", { class: "rule", x1: pc(x(group.kept)), x2: pc(x(group.kept)), y1: 0, y2: "100%" });
    const cursor = el("line", { class: "axis", y1: 0, y2: "100%", x1: -9, x2: -9, visibility: "hidden" });
    svg.append(inner, rule, cursor);
    const say = (i) => {
      const parts = [group.at[i] + " of " + group.size + " units"];
      for (const [key, word] of [["errors", "error"], ["floor", "no choice below"], ["hurt", "harm to the output"]])
        if (group[key].length) parts.push(word + " " + text(group[key][i]));
      by("readout").textContent = parts.join(" · ");
      cursor.setAttribute("x1", pc(x(group.at[i])));
      cursor.setAttribute("x2", pc(x(group.at[i])));
    };
    const chosen = group.at.indexOf(group.kept);
    if (chosen >= 0 && group.errors[chosen] !== null && group.errors[chosen] !== undefined)
      svg.append(el("svg", { x: pc(x(group.kept)), y: pc(1 - y(group.errors[chosen])), overflow: "visible" },
        el("path", { class: "mark diamond", d: "M0-7.5L7.5 0L0 7.5L-7.5 0z" })));
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const want = ((event.clientX - box.left) / box.width) * group.size;
      let best = 0;
      group.at.forEach((v, i) => { if (Math.abs(v - want) < Math.abs(group.at[best] - want)) best = i; });
      cursor.setAttribute("visibility", "visible");
      say(best);
    });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); if (chosen >= 0) say(chosen); });
    if (chosen >= 0) say(chosen);
    return svg;
  }

  function units(group) {
    const wide = Math.max(16, Math.min(64, Math.ceil(Math.sqrt(group.size * 3))));
    const tall = Math.ceil(group.size / wide);
    let kept = "", gone = "";
    for (let u = 0; u < group.size; u += 1) {
      const stays = (parseInt(group.units[u >> 2], 16) >> (3 - (u & 3))) & 1;
      const at = "M" + ((u % wide) + 0.12) + " " + (Math.floor(u / wide) + 0.12) + "h.76v.76h-.76z";
      if (stays) kept += at; else gone += at;
    }
    return el("svg", { class: "unit-map", style: "max-width:" + 18 * wide + "px", viewBox: "0 0 " + wide + " " + tall, role: "img",
      "aria-label": group.kept + " of " + group.size + " units stay" },
    el("path", { class: "in", d: kept }), el("path", { class: "gone", d: gone }));
  }

  const dialog = by("large");
  let here = 0;
  const show = (step) => {
    here = (here + step + cards.children.length) % cards.children.length;
    const group = records.groups[Number(cards.children[here].dataset.group)];
    by("large-name").textContent = group.name;
    by("large-note").textContent = group.kept + " of " + group.size + " units stay" +
      (group.reason === null ? "" : "; may not be touched: " + group.reason);
    by("large-plot").replaceChildren(plot(group));
    by("large-units").replaceChildren(units(group));
    const legend = by("large-legend");
    legend.replaceChildren();
    for (const [key, css, word] of [["errors", "kept", "error"], ["floor", "bound", "lower bound of any choice"], ["hurt", "hurt", "measured harm to the output"]]) {
      if (!group[key].length) continue;
      const item = document.createElement("li");
      item.append(el("svg", { class: "key", viewBox: "-14 -8 28 16" }, el("path", { class: "curve " + css, d: "M-13 0H13" })), word);
      legend.append(item);
    }
    if (!dialog.open) dialog.showModal();
  };
  for (const card of all) card.addEventListener("click", () => { here = [...cards.children].indexOf(card); show(0); });
  by("previous").addEventListener("click", () => show(-1));
  by("next").addEventListener("click", () => show(1));
  by("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(-1);
    if (event.key === "ArrowRight") show(1);
  });
})();
