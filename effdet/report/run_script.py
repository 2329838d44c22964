"""The script of the reports: sorting, searching, filters, values at the pointer, the curves of a class, large pictures.

It only reads the page itself. Text goes in as text, never as HTML.
"""

RUN_SCRIPT = r"""
"use strict";
(() => {
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";
const element = (name, attributes, root) => {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  return root ? root.appendChild(made) : made;
};

/* Tables */
const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const CHUNK = 150; // rows in the page at a time; more follow when the table is scrolled
for (const box of all(".sortable")) {
  const body = one("tbody", box), rows = [...body.rows], heads = all("thead th", box), scroll = one(".tall", box);
  const search = one(".search", box);
  let sorted = rows, matching = rows, shown = 0;
  const more = () => {
    body.append(...matching.slice(shown, shown + CHUNK));
    shown = Math.min(shown + CHUNK, matching.length);
  };
  const show = () => {
    const text = search ? search.value.trim().toLowerCase() : "";
    matching = text ? sorted.filter((row) => row.cells[0].textContent.toLowerCase().includes(text)) : sorted;
    if (search) one(".count", box).textContent = text ? `${matching.length} of ${rows.length}` : `${rows.length}`;
    body.replaceChildren();
    shown = 0;
    scroll.scrollTop = 0;
    more();
  };
  scroll.addEventListener("scroll", () => {
    if (shown < matching.length && scroll.scrollTop + 2 * scroll.clientHeight > scroll.scrollHeight) more();
  });
  heads.forEach((head, column) => one("button", head).addEventListener("click", () => {
    const words = head.classList.contains("text");
    const now = head.getAttribute("aria-sort");
    const up = now === "none" ? words : now !== "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = rows.map((row, place) => {
      const text = row.cells[column].textContent;
      const value = words ? text : parseFloat(text);
      return { row, place, value, none: words ? text === "\u2013" : Number.isNaN(value) };
    });
    const sign = up ? 1 : -1;
    keyed.sort((a, b) => a.none - b.none
      || (a.none ? 0 : sign * (words ? order.compare(a.value, b.value) : a.value - b.value)) || a.place - b.place);
    sorted = keyed.map((each) => each.row);
    show();
  }));
  if (search) search.addEventListener("input", show);
  if (rows.length > CHUNK) show();
}

/* Values at the pointer */
const frameOf = (svg) => {
  const [left, right, top, bottom, xLow, xHigh, xPercent, yLow, yHigh, yPercent, yLog] =
    svg.dataset.frame.split(" ").map(Number);
  return { left, right, top, bottom, xLow, xHigh, xPercent, yLow, yHigh, yPercent, yLog };
};
const number = (value, percent) => percent ? `${(100 * value).toFixed(1)}%`
  : Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
for (const plot of all(".plot")) {
  const svg = one("svg[data-frame]", plot);
  if (!svg) continue;
  const frame = frameOf(svg);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  plot.append(tip);
  const cursor = element("path", { class: "cursor" }, svg);
  const dots = element("g", {}, svg);
  const hide = () => { tip.hidden = true; cursor.setAttribute("d", ""); dots.replaceChildren(); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect(), scale = 480 / bounds.width;
    const x = (event.clientX - bounds.left) * scale;
    let nearest = null;
    const curves = all(".curve", svg).map((curve) => {
      const points = [...one("path", curve).getAttribute("d").matchAll(/[ML]([-\d.]+) ([-\d.]+)/g)]
        .map((match) => [Number(match[1]), Number(match[2])]);
      for (const point of points)
        if (nearest === null || Math.abs(point[0] - x) < Math.abs(nearest - x)) nearest = point[0];
      return { name: curve.dataset.name, points };
    });
    if (nearest === null) return hide();
    cursor.setAttribute("d", `M${nearest} ${frame.top}V${frame.bottom}`);
    const fraction = (nearest - frame.left) / (frame.right - frame.left);
    const at = frame.xLow + fraction * (frame.xHigh - frame.xLow);
    const lines = [`${one("text.name", svg).textContent}: ${number(at, frame.xPercent)}`];
    dots.replaceChildren();
    for (const { name, points } of curves) {
      const point = points.find((each) => Math.abs(each[0] - nearest) < 0.6);
      if (!point) continue;
      element("circle", { cx: point[0], cy: point[1], r: 3.5 }, dots);
      const height = (frame.bottom - point[1]) / (frame.bottom - frame.top);
      const value = frame.yLog ? frame.yLow * (frame.yHigh / frame.yLow) ** height
        : frame.yLow + height * (frame.yHigh - frame.yLow);
      lines.push(`${name}: ${number(value, frame.yPercent)}`);
    }
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const place = nearest / scale, wide = tip.offsetWidth;
    const beside = place > bounds.width / 2 ? place - wide - 12 : place + 12;
    tip.style.left = `${Math.max(0, Math.min(bounds.width - wide, beside))}px`;
  });
}

/* Curves of one class */
const curveData = one("#curve-data");
if (curveData) {
  const data = JSON.parse(curveData.textContent);
  one("#curve-class").addEventListener("change", (event) => {
    all(".curve.own").forEach((curve) => curve.remove());
    const chosen = event.target.value;
    for (const plot of all(".plot[data-plot]")) {
      const curve = chosen === "" ? null : data.classes[plot.dataset.plot][Number(chosen)];
      plot.classList.toggle("with-own", Boolean(curve));
      if (!curve) continue;
      const svg = one("svg", plot), frame = frameOf(svg), x = data[data.over[plot.dataset.plot]];
      const across = (value) => frame.left + (frame.right - frame.left) * value / 1000;
      const down = (value) => frame.bottom - (frame.bottom - frame.top) * value / 1000;
      const group = element("g", { class: "curve own" });
      group.dataset.name = event.target.selectedOptions[0].textContent;
      const steps = curve.map((value, place) => value === null ? ""
        : `L${across(x[place]).toFixed(1)} ${down(value).toFixed(1)}`);
      element("path", { class: "line c1", d: steps.join("").replace("L", "M") }, group);
      svg.insertBefore(group, one(".cursor", svg));
    }
  });
}

/* Images */
const plural = (count) => count === 1 ? "1 image" : `${count} images`;
for (const gallery of all(".gallery")) {
  const figures = all("figure", gallery), grid = one(".pictures", gallery), chips = all(".chip", gallery);
  const select = one("select.classes", gallery), count = one(".count", gallery);
  const errors = figures.map((figure) => figure.dataset.errors.split(" ").map((each) => each.split("/")));
  const update = () => {
    const pressed = chips.find((chip) => chip.getAttribute("aria-pressed") === "true");
    const kind = pressed ? pressed.dataset.kind : "", label = select.value;
    const ranked = figures.map((figure, place) => ({ figure, place, hits: errors[place].filter((each) =>
      (!kind || each[0] === kind) && (label === "" || each[1] === label)).length }));
    if (kind || label !== "") ranked.sort((a, b) => b.hits - a.hits || a.place - b.place);
    ranked.forEach((each) => { each.figure.hidden = !each.hits; });
    grid.append(...ranked.map((each) => each.figure));
    const shown = ranked.filter((each) => each.hits).length;
    count.textContent = shown === figures.length ? plural(shown) : `${shown} of ${plural(figures.length)}`;
  };
  chips.forEach((chip) => chip.addEventListener("click", () => {
    chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
    update();
  }));
  select.addEventListener("change", update);
  all("[data-show]", gallery).forEach((box) => box.addEventListener("change", () =>
    document.body.classList.toggle(`no-${box.dataset.show}`, !box.checked)));
  update();
}
const dialog = one("#large");
if (dialog) {
  const place = one(".large", dialog), caption = one("p", dialog);
  let current = null;
  const show = (figure) => {
    current = figure;
    const small = one(".open", figure).firstElementChild, large = small.cloneNode(true);
    place.replaceChildren(large);
    caption.textContent = one("figcaption", figure).innerText.replace("\n", ": ");
    if (!dialog.open) dialog.showModal();
    const scale = Math.min(1, 1.25 * small.clientWidth / large.clientWidth); // texts grow less than the image
    for (const text of all("text.b", large)) text.setAttribute("font-size", scale * text.getAttribute("font-size"));
  };
  const step = (by) => {
    const visible = all(".gallery figure").filter((figure) => !figure.hidden && one(".open", figure));
    const next = visible[visible.indexOf(current) + by];
    if (next) show(next);
  };
  all(".open").forEach((button) => button.addEventListener("click", () => show(button.closest("figure"))));
  one("[data-step='-1']", dialog).addEventListener("click", () => step(-1));
  one("[data-step='1']", dialog).addEventListener("click", () => step(1));
  one(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}
})();
"""
