"use strict";
/* What pictures are made of, and numbers in them. */
(() => {
  const signed = (text) => text.replace("-", "−");
  const decibels = (value) => (value > -100 ? signed(value.toFixed(1)) : "–");
  const short = (value) => signed(String(Number(value.toPrecision(6))));

  function number(value) {
    const size = Math.abs(value);
    if (size < 1e-6) return "0";
    return signed(size < 0.1 ? value.toPrecision(2) : value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2));
  }

  function put(parent, kind, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  function element(parent, kind, text, className) {
    const node = document.createElement(kind);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    parent.append(node);
    return node;
  }

  const polar = (x, y, radius, degrees) => [
    (x + radius * Math.sin((degrees * Math.PI) / 180)).toFixed(2), (y - radius * Math.cos((degrees * Math.PI) / 180)).toFixed(2),
  ];

  function ray(parent, className, x, y, from, to, degrees) {
    const [x1, y1] = polar(x, y, from, degrees), [x2, y2] = polar(x, y, to, degrees);
    return put(parent, "line", { class: className, x1, y1, x2, y2 });
  }

  function arc(x, y, radius, from, to) {
    const large = Math.abs(to - from) > 180 ? 1 : 0;
    return "M" + polar(x, y, radius, from) + "A" + [radius, radius, 0, large, to > from ? 1 : 0, polar(x, y, radius, to)];
  }

  const pathOf = (points) => "M" + points.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L");

  /* Round numbers between two ends, on a scale. */
  function ticks(low, high, log, most = 4) {
    const found = [];
    if (log) {
      for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
        for (const digit of [1, 2, 5]) found.push(digit * Math.pow(10, decade));
      }
    }
    const inside = (several) => several.filter((value) => value >= low && value <= high);
    if (inside(found).length > most) return inside(found).filter((value) => /^0*\.?0*1/.test(value.toFixed(6)));
    if (inside(found).length > 1) return inside(found);
    const apart = niceStep((high - low) / (0.45 * most));
    const even = [];
    for (let k = Math.ceil(low / apart); k * apart <= high; k += 1) even.push(Number((k * apart).toPrecision(9)));
    return even;
  }

  /* The 1, 2 or 5 of a power of ten that isn't larger. */
  function niceStep(most) {
    const power = Math.pow(10, Math.floor(Math.log10(most) + 1e-9));
    return power * [5, 2, 1].find((digit) => digit * power <= most * (1 + 1e-9));
  }

  globalThis.la2aDrawing = { put, element, polar, ray, arc, pathOf, ticks, niceStep, signed, decibels, short, number };
})();
