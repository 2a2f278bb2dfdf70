"use strict";
(() => {
  const { model, words, drawn, listed, knob: knobName, positions } = JSON.parse(document.getElementById("page-data").textContent);
  const { NAME, METERS, parametersAt, overThreshold, slopeOf, lightOf, gainOf } = la2aUnit;
  const KNOB_DEGREES = 135; // to either side of straight up
  const DIAL_DEGREES = 50;
  const MOST_DB = 40; // of the dial
  const HOLD_S = 2; // for which the deepest reduction stays
  const FADE = 0.004; // seconds: time constant of what starts and stops
  const TAIL_S = 4; // for which the unit is left running after a stop, so that the needle comes back
  const CALM_S = 0.25; // between drawings for who likes it still
  const TRAIL = 14;
  const FEWEST_DBFS = -60;

  const byId = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const step = niceStep((model.knob.high - model.knob.low) / 100); // of the knob; there are tenths of it
  const at = {
    knob: model.knob.default,
    switch: model.switch === null ? 0 : model.switch.default,
    bypass: 0,
  };

  /* Words and numbers. */

  const signed = (text) => text.replace("-", "−");
  const decibels = (value) => (value > -100 ? signed(value.toFixed(1)) : "–");
  const short = (value) => signed(String(Number(value.toPrecision(6))));

  function number(value) {
    const size = Math.abs(value);
    if (size < 1e-6) return "0";
    return signed(size < 0.1 ? value.toPrecision(2) : value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2));
  }

  function quantity(name, value) {
    const unit = words[name][1];
    if (unit === "ms" && value >= 999.5) return number(value / 1000) + "\u00a0s";
    if (unit === "Hz" && value >= 9995) return number(value / 1000) + "\u00a0kHz";
    if (unit === "×") return "×\u00a0" + number(value);
    return number(value) + (unit === "" ? "" : "\u00a0" + unit);
  }

  const knobText = (value) => signed(String(Number(value.toFixed(Math.max(0, 1 - Math.floor(Math.log10(step)))))));

  /* The 1, 2 or 5 of a power of ten that isn't larger. */
  function niceStep(most) {
    const power = Math.pow(10, Math.floor(Math.log10(most) + 1e-9));
    return power * [5, 2, 1].find((digit) => digit * power <= most * (1 + 1e-9));
  }

  /* Drawing. */

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

  /* The unit's positions: what hangs on them is drawn anew, and sounds. */

  const numbers = Array.from({ length: Math.max(1, positions.length) }, () => ({ ...model.constants }));
  const lowest = model.switch === null ? 0 : model.switch.low;
  const chosen = () => at.switch - lowest;

  function turned() {
    numbers.forEach((p, row) => parametersAt(model, lowest + row, at.knob, p));
    knob.show();
    inOut.show();
    panels.forEach((panel) => panel.show());
    if (player.unit) player.follow();
  }

  const knob = (() => {
    const svg = byId("knob"), { low, high } = model.knob;
    const degreesOf = (value) => KNOB_DEGREES * ((2 * (value - low)) / (high - low) - 1);
    put(svg, "path", { class: "way", d: arc(0, 0, 64, -KNOB_DEGREES, KNOB_DEGREES) });
    const gone = put(svg, "path", { class: "gone" });
    for (let k = 0; k <= 50; k += 1) {
      const value = low + (k * (high - low)) / 50;
      ray(svg, k % 5 ? "fine" : "mark", 0, 0, 71, k % 5 ? 75 : 79, degreesOf(value));
      const [x, y] = polar(0, 4, 92, degreesOf(value));
      if (k % 5 === 0) put(svg, "text", { x, y }, knobText(value));
    }
    put(svg, "circle", { class: "cap", r: 54 });
    put(svg, "circle", { class: "top", r: 40 });
    const pointer = put(svg, "line", { class: "pointer", x1: 0, x2: 0, y1: -33, y2: -49 });
    svg.setAttribute("aria-valuemin", low);
    svg.setAttribute("aria-valuemax", high);

    function turn(value) {
      const nearest = Number((Math.round((10 * value) / step) * (step / 10)).toPrecision(9));
      at.knob = Math.min(high, Math.max(low, nearest));
      turned();
    }

    function show() {
      const degrees = degreesOf(at.knob), text = knobText(at.knob);
      pointer.setAttribute("transform", "rotate(" + degrees.toFixed(2) + ")");
      gone.setAttribute("d", arc(0, 0, 64, -KNOB_DEGREES, Math.max(degrees, 0.01 - KNOB_DEGREES)));
      svg.setAttribute("aria-valuenow", at.knob);
      svg.setAttribute("aria-valuetext", text);
      byId("position").textContent = text;
    }

    svg.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const little = event.shiftKey ? step / 10 : step;
      const by = { ArrowUp: little, ArrowRight: little, ArrowDown: -little, ArrowLeft: -little, PageUp: 10 * step, PageDown: -10 * step };
      if (event.key in by) turn(at.knob + by[event.key]);
      else if (event.key === "Home") turn(low);
      else if (event.key === "End") turn(high);
      else return;
      event.preventDefault();
    });
    let grabbed = null;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      svg.setPointerCapture(event.pointerId);
      grabbed = { y: event.clientY, x: event.clientX, value: at.knob };
    });
    svg.addEventListener("pointermove", (event) => {
      if (grabbed === null) return;
      const pixels = grabbed.y - event.clientY + event.clientX - grabbed.x;
      grabbed = { y: event.clientY, x: event.clientX, value: grabbed.value + (pixels * step) / (event.shiftKey ? 20 : 2) };
      turn(grabbed.value);
      grabbed.value = Math.min(high, Math.max(low, grabbed.value));
    });
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { grabbed = null; });
    svg.addEventListener("dblclick", () => turn(model.knob.default));
    svg.addEventListener("wheel", (event) => {
      if (document.activeElement !== svg || event.ctrlKey) return; // else a page couldn't be scrolled past it
      event.preventDefault();
      turn(at.knob - Math.sign(event.deltaY || -event.deltaX) * (event.shiftKey ? step / 10 : step));
    }, { passive: false });
    return { turn, show };
  })();

  const meter = (() => {
    const svg = byId("dial"), x = 160, y = 176, radius = 128;
    // Full deflection is no reduction, and the scale is the square root of the gain: even enough from 1 to 40 dB.
    const least = Math.sqrt(gainOf(-MOST_DB));
    const degreesOf = (db) => DIAL_DEGREES * ((2 * (Math.sqrt(gainOf(-Math.min(db, MOST_DB))) - least)) / (1 - least) - 1);
    put(svg, "path", { class: "arc", d: arc(x, y, radius, -DIAL_DEGREES, DIAL_DEGREES) });
    for (const db of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40]) {
      const named = [0, 1, 3, 5, 7, 10, 15, 20, 30, 40].includes(db);
      ray(svg, named ? "mark" : "fine", x, y, radius, radius + (named ? 9 : 5), degreesOf(db));
      const [tx, ty] = polar(x, y + 4, radius + 20, degreesOf(db));
      if (named) put(svg, "text", { x: tx, y: ty }, db);
    }
    put(svg, "text", { class: "says", x, y: 104 }, "gain reduction, dB");
    const band = put(svg, "path", { class: "band" });
    const peak = put(svg, "path", { class: "peak", d: "M" + [x, y - radius + 1] + "l-5 9h10z" });
    const needle = put(svg, "line", { class: "needle", x1: x, x2: x, y1: y, y2: y - radius + 3 });
    put(svg, "circle", { class: "hub", cx: x, cy: y, r: 9 });
    let deepest = 0, since = 0;

    function show(db, now) {
      if (db >= deepest || now - since > HOLD_S) {
        deepest = db;
        since = now;
      }
      const turn = (degrees) => "rotate(" + [degrees.toFixed(2), x, y] + ")";
      needle.setAttribute("transform", turn(degreesOf(db)));
      peak.setAttribute("transform", turn(degreesOf(deepest)));
      band.setAttribute("d", arc(x, y, radius - 6, DIAL_DEGREES, Math.min(degreesOf(db), DIAL_DEGREES - 0.01)));
      const text = db.toFixed(1);
      if (byId("reduction").textContent !== text) byId("reduction").textContent = text;
      byId("deepest").textContent = deepest.toFixed(1);
      byId("meter").setAttribute("aria-valuenow", text);
      byId("meter").setAttribute("aria-valuetext", text + " dB");
    }

    return { show };
  })();

  /* Gain at which a cell rests on a long 1 kHz tone: the one that drives it to itself, found by halving. */
  function restingGain(p, peak) {
    const most = gainOf(p.largest_reduction_db) - 1, points = 24;
    const { recombination_per_s: decay, pair_recombination_per_s: pair } = p;
    const passed = gainOf(p.sidechain_gain_db) / Math.hypot(1, p.highpass_hz / 1000);
    let low = 0, high = 1;
    for (let round = 0; round < 30; round += 1) {
      const gain = 0.5 * (low + high);
      const drive = passed * peak * (gain + p.input_tap * (1 - gain));
      let light = 0;
      for (let k = 0; k < points; k += 1) light += lightOf(drive * Math.sin(((k + 0.5) * Math.PI) / (2 * points)), p) / points;
      const n = (2 * (decay + pair) * light) / (decay + Math.sqrt(decay * decay + 4 * pair * (decay + pair) * light));
      if ((1 + n / most) / (1 + n / most + n) < gain) high = gain;
      else low = gain;
    }
    return 0.5 * (low + high);
  }

  /* Points of the static curve, in dB: input and output. */
  function staticCurve(p) {
    const points = [];
    for (let level_db = FEWEST_DBFS; level_db <= 0; level_db += 1) {
      if (model.family === "optical-cell") {
        points.push([level_db, level_db + 20 * Math.log10(restingGain(p, gainOf(level_db))) + p.makeup_db]);
        continue;
      }
      for (const part_db of [0, 0.25, 0.5, 0.75]) { // with feedback the curve hears the output
        const heard_db = Math.min(level_db + part_db, 0);
        const less_db = slopeOf(p, model.feedback) * overThreshold(heard_db, p);
        points.push(model.feedback ? [heard_db + less_db, heard_db + p.makeup_db] : [heard_db, heard_db - less_db + p.makeup_db]);
      }
    }
    return points;
  }

  const inOut = (() => {
    const svg = byId("inout");
    const box = { left: 40, right: 352, top: 8, bottom: 326 };
    const makeups = model.curves.makeup_db ? model.curves.makeup_db.values.flat() : [model.constants.makeup_db];
    const highest = 6 * Math.max(1, Math.ceil(Math.max(...makeups) / 6));
    const across = (db) => box.left + ((db - FEWEST_DBFS) * (box.right - box.left)) / -FEWEST_DBFS;
    const down = (db) => box.bottom - ((db - FEWEST_DBFS) * (box.bottom - box.top)) / (highest - FEWEST_DBFS);
    const clip = put(put(svg, "defs", {}), "clipPath", { id: "inout-box" });
    put(clip, "rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });
    for (let db = FEWEST_DBFS; db <= highest; db += 12) {
      put(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: down(db), y2: down(db) });
      put(svg, "text", { class: "tick", x: box.left - 6, y: down(db) + 4, "text-anchor": "end" }, signed(String(db)));
      if (db > 0) continue;
      put(svg, "line", { class: "grid", x1: across(db), x2: across(db), y1: box.top, y2: box.bottom });
      put(svg, "text", { class: "tick", x: across(db), y: box.bottom + 17, "text-anchor": "middle" }, signed(String(db)));
    }
    put(svg, "path", { class: "axis", d: "M" + [box.left, box.top] + "V" + box.bottom + "H" + box.right });
    put(svg, "text", { class: "label", x: box.right, y: box.bottom + 36, "text-anchor": "end" }, "input, dBFS");
    put(svg, "text", { class: "label", x: box.left + 7, y: box.top + 12 }, "output, dBFS");
    const inside = put(svg, "g", { "clip-path": "url(#inout-box)" });
    put(inside, "path", { class: "unity", d: pathOf([[across(FEWEST_DBFS), down(FEWEST_DBFS)], [across(0), down(0)]]) });
    const lines = numbers.map((_, row) => put(inside, "path", { class: "other s" + (row % 6) }));
    const drop = put(inside, "line", { class: "drop", visibility: "hidden" });
    const trail = Array.from({ length: TRAIL }, () => put(inside, "circle", { class: "trail", r: 3.5, visibility: "hidden" }));
    const dot = put(inside, "circle", { class: "dot", r: 6, visibility: "hidden" });
    let last = 0;

    function show() {
      const curves = numbers.map(staticCurve);
      lines.forEach((line, row) => {
        line.setAttribute("d", pathOf(curves[row].map(([x, y]) => [across(x), down(y)])));
        line.setAttribute("class", (row === chosen() ? "line s" : "other s") + (row % 6));
      });
      inside.insertBefore(lines[chosen()], drop);
      const loud = curves[chosen()].reduce((best, point) => (Math.abs(point[0] + 10) < Math.abs(best[0] + 10) ? point : best));
      const where = knobName + " " + knobText(at.knob) + (positions.length ? ", " + positions[chosen()] : "");
      byId("inout-says").textContent = where + ": a level of " + signed(loud[0].toFixed(0)) + " dBFS rests at " + decibels(loud[1]) + " dBFS. ";
    }

    /* The sound now: level and reduction in dB, or nothing. */
    function point(level_db, reduction_db) {
      const seen = level_db > FEWEST_DBFS;
      const x = across(level_db), y = down(level_db - reduction_db + numbers[chosen()].makeup_db);
      if (!calm.matches && seen) {
        const ghost = trail[(last += 1) % TRAIL];
        ghost.setAttribute("cx", x);
        ghost.setAttribute("cy", y);
      }
      for (const ghost of trail) ghost.setAttribute("visibility", seen && ghost.hasAttribute("cx") ? "visible" : "hidden");
      for (const node of [dot, drop]) node.setAttribute("visibility", seen ? "visible" : "hidden");
      if (!seen) return;
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", y);
      drop.setAttribute("x1", x);
      drop.setAttribute("x2", x);
      drop.setAttribute("y1", down(level_db + numbers[chosen()].makeup_db));
      drop.setAttribute("y2", y);
    }

    return { show, point, dot };
  })();

  function makePanel(name) {
    const figure = element(byId("panels"), "figure", undefined, "panel");
    const heading = element(figure, "p");
    element(heading, "span", words[name][0]);
    const value = element(heading, "b");
    const svg = put(figure, "svg", { viewBox: "0 0 240 112", role: "img", "aria-label": words[name][0] + " over " + knobName });
    element(figure, "small", words[name][2]);
    const box = { left: 34, right: 234, top: 6, bottom: 92 };
    const { scale, values } = model.curves[name], log = scale === "log", { low, high } = model.knob;
    const on = (v) => (log ? Math.log(v) : v);
    const all = values.flat(), least = Math.min(...all), most = Math.max(...all);
    const room = 0.06 * (on(most) - on(least)) || 1;
    const down = (v) => box.bottom - ((on(v) - on(least) + room) * (box.bottom - box.top)) / (on(most) - on(least) + 2 * room);
    const across = (at_knob) => box.left + ((at_knob - low) * (box.right - box.left)) / (high - low);
    for (const tick of ticks(least, most, log)) {
      put(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: down(tick), y2: down(tick) });
      put(svg, "text", { class: "tick", x: box.left - 5, y: down(tick) + 4, "text-anchor": "end" }, short(tick));
    }
    for (const share of [0, 0.5, 1]) {
      const anchor = ["start", "middle", "end"][2 * share];
      put(svg, "text", { class: "tick", x: across(low + share * (high - low)), y: box.bottom + 15, "text-anchor": anchor }, short(low + share * (high - low)));
    }
    put(svg, "path", { class: "axis", d: "M" + [box.left, box.top] + "V" + box.bottom + "H" + box.right });
    const here = put(svg, "line", { class: "here", y1: box.top, y2: box.bottom });
    const lines = values.map((row, place) => {
      const points = row.map((v, i) => [across(low + (i * (high - low)) / (row.length - 1)), down(v)]).filter((_, i) => i % 5 === 0);
      return put(svg, "path", { class: "other s" + (place % 6), d: pathOf(points) });
    });
    const marks = values.map((_, place) => put(svg, "circle", { class: "f" + (place % 6) }));

    function show() {
      here.setAttribute("x1", across(at.knob));
      here.setAttribute("x2", across(at.knob));
      marks.forEach((mark, place) => {
        mark.setAttribute("cx", across(at.knob).toFixed(2));
        mark.setAttribute("cy", down(numbers[place][name]).toFixed(2));
        mark.setAttribute("r", place === chosen() ? 5 : 3);
        lines[place].setAttribute("class", (place === chosen() ? "line s" : "other s") + (place % 6));
      });
      svg.append(marks[chosen()]);
      value.textContent = quantity(name, numbers[chosen()][name]);
    }

    return { name, show, marks, value };
  }

  const panels = drawn.map(makePanel);

  /* What is played: made here, the same every time. */

  const BEAT = 0.6; // seconds
  const LOOP = 8 * BEAT;

  function noise() {
    let seed = 1;
    return () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
      return seed / 2147483648;
    };
  }

  /* Add a sound of so many seconds to a loop, from a beat on. */
  function strike(loop, rate, beat, seconds, sample) {
    const start = Math.round(beat * BEAT * rate), frames = Math.round(seconds * rate);
    for (let n = 0; n < frames; n += 1) loop[(start + n) % loop.length] += sample(n / rate);
  }

  const empty = (rate, seconds = LOOP) => new Float32Array(Math.round(seconds * rate));

  function drums(rate) {
    const loop = empty(rate), random = noise();
    const edge = (order) => { // noise without its lows
      let a = 0, b = 0;
      return () => {
        const x = random(), y = x - a, z = y - b;
        a = x;
        b = y;
        return order === 1 ? y : z;
      };
    };
    for (const beat of [0, 1.5, 4, 5.5, 6.75]) {
      strike(loop, rate, beat, 0.5, (t) => 0.62 * Math.exp(-t / 0.13) * Math.sin(2 * Math.PI * (48 * t + 4 * (1 - Math.exp(-t / 0.03)))));
    }
    for (const [beat, loud] of [[1, 1], [3, 0.9], [5, 1], [7, 0.95], [7.75, 0.35]]) {
      const rattle = edge(1);
      strike(loop, rate, beat, 0.45, (t) => loud * (0.22 * rattle() * Math.exp(-t / 0.075) + 0.3 * Math.sin(2 * Math.PI * 186 * t) * Math.exp(-t / 0.05)));
    }
    for (let half = 0; half < 16; half += 1) {
      const hiss = edge(2), loud = half % 2 ? 0.06 : 0.1, long = half === 15 ? 0.16 : 0.03;
      strike(loop, rate, half / 2, 6 * long, (t) => loud * hiss() * Math.exp(-t / long));
    }
    return loop;
  }

  function bass(rate) {
    const loop = empty(rate);
    const line = [[0, 0.9, 0], [1, 0.4, 0], [1.5, 0.45, 12], [2, 0.9, 3], [3, 0.4, 3], [3.5, 0.4, 5], [4, 1.4, 7], [5.5, 0.4, 7], [6, 0.9, -2], [7, 0.4, -2], [7.5, 0.4, 10]];
    for (const [beat, beats, tone] of line) {
      const hz = 55 * Math.pow(2, tone / 12), long = beats * BEAT;
      strike(loop, rate, beat, long, (t) => {
        let sum = 0;
        for (let k = 1; k <= 9; k += 1) sum += (Math.exp(-t * (1.5 + 1.6 * k)) / k) * Math.sin(2 * Math.PI * k * hz * t);
        return 0.33 * sum * Math.min(1, t / 0.004) * Math.min(1, (long - t) / 0.012);
      });
    }
    return loop;
  }

  function voice(rate) {
    const loop = empty(rate);
    const vowels = [[730, 1090, 2440], [270, 2290, 3010], [530, 1840, 2480], [570, 840, 2410], [300, 870, 2240]];
    const spoken = [[0, 0.5, 0], [0.6, 0.3, -9], [1, 0.8, -3], [2.1, 0.25, -14], [2.45, 0.3, -20], [2.9, 0.9, 2], [4.1, 0.35, -6], [4.55, 0.3, -12], [5, 1.1, 3], [6.4, 0.3, -16], [6.8, 0.8, -8]];
    spoken.forEach(([beat, beats, level_db], which) => {
      const long = beats * BEAT, past = [0, 0, 0, 0, 0, 0];
      let phase = 0;
      strike(loop, rate, beat, long, (t) => {
        const hz = 118 + 26 * Math.exp(-t / 0.2) + 3 * Math.sin(2 * Math.PI * 5 * t) + 6 * (which % 3);
        phase = (phase + hz / rate) % 1;
        const pulse = phase < 0.4 ? Math.sin((Math.PI * phase) / 0.4) - 0.64 : -0.1;
        let sum = 0;
        vowels[which % 5].forEach((formant, k) => {
          const r = Math.exp((-Math.PI * (70 + 30 * k)) / rate), w = (2 * Math.PI * formant) / rate;
          const y = (1 - r) * pulse + 2 * r * Math.cos(w) * past[2 * k] - r * r * past[2 * k + 1];
          past[2 * k + 1] = past[2 * k];
          past[2 * k] = y;
          sum += y / (1 + 0.6 * k);
        });
        return 2.2 * gainOf(level_db) * sum * Math.min(1, t / 0.02) * Math.min(1, (long - t) / 0.05);
      });
    });
    return scaled(loop, 0.6);
  }

  function tone(rate) {
    const loop = empty(rate, 6);
    return loop.map((_, n) => gainOf(n >= 1.5 * rate && n < 3 * rate ? -4 : -34) * Math.sin((2 * Math.PI * 1000 * n) / rate));
  }

  function scaled(loop, peak) {
    const top = loop.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    return loop.map((x) => (x * peak) / top);
  }

  function band(rate) {
    const other = bass(rate);
    return scaled(drums(rate).map((x, n) => x + other[n]), 0.8);
  }

  const material = {
    "Drums and bass": band,
    Drums: (rate) => scaled(drums(rate), 0.8),
    Bass: (rate) => scaled(bass(rate), 0.6),
    Syllables: voice,
    "1 kHz in steps": tone,
  };

  /* Sound: source → its own fade → input level → the unit → out; beside it what the meters read. */

  /* The text of the first script as a module of the audio thread. From a page that is a file, Chromium takes it under a
     data: address but not under a blob: one; where data: isn't taken, blob: is tried. */
  async function addModule(audio) {
    const text = byId("processor").textContent;
    try {
      await audio.audioWorklet.addModule("data:text/javascript;charset=utf-8," + encodeURIComponent(text));
    } catch (error) {
      const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      await audio.audioWorklet.addModule(address);
      URL.revokeObjectURL(address);
    }
  }

  async function unitNode(audio, channels, parameterData) {
    if (!audio.audioWorklet) throw new Error("it has no AudioWorklet here; open the page as a file or over https");
    await addModule(audio);
    return new AudioWorkletNode(audio, NAME, {
      numberOfOutputs: 2,
      outputChannelCount: [channels, METERS],
      channelCount: channels,
      channelCountMode: "explicit",
      parameterData,
      processorOptions: { model, channels },
    });
  }

  const player = {
    context: null,
    unit: null,
    source: null,
    ready: null,
    sounds: new Map(), // by name, as AudioBuffers of the context's rate
    chosen: Object.keys(material)[0],
    starts: 0,
    stopped: 0,

    prepare() {
      this.ready = this.ready || this.build();
      this.ready.catch(() => { this.ready = null; }); // so that it may be tried again
      return this.ready;
    },

    async build() {
      this.context = new AudioContext();
      if (model.output_filter !== null && !(String(this.context.sampleRate) in model.output_filter.taps)) {
        await this.context.close(); // a rate that the output filter wasn't matched to
        this.context = new AudioContext({ sampleRate: 48000 });
      }
      const unit = await unitNode(this.context, 2, at);
      this.level = this.context.createGain();
      this.level.gain.value = gainOf(Number(byId("level").value));
      this.level.connect(unit).connect(this.context.destination, 0);
      const split = this.context.createChannelSplitter(METERS);
      unit.connect(split, 1);
      this.readings = Array.from({ length: METERS }, (_, channel) => {
        const analyser = this.context.createAnalyser();
        split.connect(analyser, channel);
        return analyser;
      });
      this.window = new Float32Array(this.readings[0].fftSize);
      this.unit = unit;
      this.follow(); // what was moved meanwhile
      byId("rate").textContent = " Sample rate: " + short(this.context.sampleRate) + " Hz.";
    },

    async play() {
      const wanted = (this.starts += 1);
      try {
        await this.prepare();
        await this.context.resume();
      } catch (error) {
        say("This browser can’t play here: " + error.message);
        return;
      }
      if (wanted !== this.starts) return; // something else was asked for meanwhile
      this.fadeOut();
      const { context } = this;
      if (!this.sounds.has(this.chosen)) {
        const samples = material[this.chosen](context.sampleRate);
        const buffer = context.createBuffer(1, samples.length, context.sampleRate);
        buffer.copyToChannel(samples, 0);
        this.sounds.set(this.chosen, buffer);
      }
      const source = context.createBufferSource(), gain = context.createGain();
      source.buffer = this.sounds.get(this.chosen);
      source.loop = true;
      gain.gain.setValueAtTime(0, context.currentTime);
      gain.gain.setTargetAtTime(1, context.currentTime, FADE);
      source.connect(gain).connect(this.level);
      source.start();
      this.source = { source, gain };
      this.shown();
      say("Playing " + this.chosen);
      requestAnimationFrame(draw);
    },

    fadeOut() {
      if (this.source === null) return;
      const { source, gain } = this.source, now = this.context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(0, now, FADE);
      source.stop(now + 10 * FADE);
      this.source = null;
    },

    stop() {
      this.starts += 1;
      this.fadeOut();
      this.stopped = this.context.currentTime;
      this.shown();
      say("");
    },

    toggle() { return this.source === null ? this.play() : this.stop(); },

    choose(name) {
      this.chosen = name;
      if (this.source !== null) this.play();
    },

    async load(file) {
      say("Reading …");
      try {
        await this.prepare();
        this.sounds.set(file.name, await this.context.decodeAudioData(await file.arrayBuffer()));
      } catch (error) {
        say("This browser can’t read that file as audio.");
        return;
      }
      offer(file.name).click();
      this.play();
    },

    follow() {
      for (const name in at) this.unit.parameters.get(name).value = at[name];
    },

    shown() {
      byId("play").textContent = this.source === null ? "Play" : "Stop";
      byId("unit").classList.toggle("playing", this.source !== null);
    },

    /* What the meters read over the last twentieth of a second. */
    read() {
      const largest = (analyser) => {
        analyser.getFloatTimeDomainData(this.window);
        return 20 * Math.log10(Math.max(this.window.reduce((most, x) => (x > most ? x : most), 0), 1e-9));
      };
      const [gain, input, output] = this.readings;
      const levels = { input_db: largest(input), output_db: largest(output) };
      gain.getFloatTimeDomainData(this.window);
      const last = this.window[this.window.length - 1];
      return { ...levels, reduction_db: last > 0 ? Math.max(0, -20 * Math.log10(last)) : 0 };
    },
  };

  let drawnAt = -1;
  let drawing = false;

  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(function again() {
      const { context } = player, now = context.currentTime;
      if (player.source === null && now - player.stopped > TAIL_S) {
        context.suspend();
        drawing = false;
        return;
      }
      if (!calm.matches || now - drawnAt > CALM_S) {
        drawnAt = now;
        const { input_db, output_db, reduction_db } = player.read();
        meter.show(reduction_db, now);
        inOut.point(input_db, reduction_db);
        byId("in-peak").textContent = decibels(input_db) + " dBFS";
        byId("out-peak").textContent = decibels(output_db) + " dBFS" + (output_db > 0 ? ": clips" : "");
        byId("out-peak").classList.toggle("over", output_db > 0);
      }
      requestAnimationFrame(again);
    });
  }

  function say(text) {
    if (byId("status").textContent !== text) byId("status").textContent = text;
  }

  /* A choice of what is played; the one of that name, if there is one already. */
  function offer(name) {
    const known = Array.from(document.querySelectorAll("#sources input")).find((radio) => radio.value === name);
    if (known) return known;
    const label = element(byId("sources"), "label", undefined, "source");
    const radio = element(label, "input");
    radio.type = "radio";
    radio.name = "source";
    radio.value = name;
    radio.addEventListener("change", () => player.choose(name));
    element(label, "span", name);
    return radio;
  }

  function listen() {
    byId("play").addEventListener("click", () => player.toggle());
    byId("bypass").addEventListener("click", () => {
      at.bypass = 1 - at.bypass;
      byId("bypass").setAttribute("aria-pressed", String(at.bypass === 1));
      byId("unit").classList.toggle("bypassed", at.bypass === 1);
      if (player.unit) player.follow();
    });
    for (const radio of document.querySelectorAll("#switch input")) {
      radio.checked = Number(radio.value) === chosen();
      radio.addEventListener("change", () => {
        at.switch = lowest + Number(radio.value);
        turned();
      });
    }
    const level = byId("level");
    const leveled = () => {
      const text = (level.value > 0 ? "+" : "") + signed(String(Number(level.value))) + " dB";
      byId("level-text").textContent = text;
      level.setAttribute("aria-valuetext", text);
      if (player.unit) player.level.gain.setTargetAtTime(gainOf(Number(level.value)), player.context.currentTime, FADE);
    };
    level.addEventListener("input", leveled);
    level.addEventListener("dblclick", () => {
      level.value = 0;
      leveled();
    });
    byId("file").addEventListener("change", () => {
      if (byId("file").files.length) player.load(byId("file").files[0]);
    });
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      if (event.dataTransfer.files.length) player.load(event.dataTransfer.files[0]);
    });
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
      const busy = event.target.closest("button, a, input:not([type=range])"); // they do what they say
      if (event.key === " " && !busy) player.toggle();
      else if (event.key === "b" || event.key === "B") byId("bypass").click();
      else return;
      event.preventDefault();
    });
  }

  function legend() {
    positions.forEach((name, place) => {
      const item = element(byId("legend"), "li");
      const svg = put(item, "svg", { viewBox: "0 0 30 12", "aria-hidden": "true" });
      put(svg, "line", { class: "s" + (place % 6), x1: 1, x2: 29, y1: 6, y2: 6, "stroke-width": 2.4 });
      element(item, "span", name);
    });
  }

  function list() {
    for (const name of listed) {
      const part = element(byId("listed"), "div"), term = element(part, "dt");
      element(term, "span", words[name][0]);
      element(term, "b", quantity(name, numbers[chosen()][name]));
      element(part, "dd", words[name][2]);
    }
    if (model.output_filter !== null) {
      const part = element(byId("listed"), "div"), term = element(part, "dt");
      element(term, "span", "Output filter");
      element(term, "b", model.output_filter.taps[String(model.output_filter.sample_rate)].length + "\u00a0taps");
      element(part, "dd", "Delay and a little colour after the gain.");
    }
  }

  Object.keys(material).forEach(offer);
  document.querySelector("#sources input").checked = true;
  listen();
  legend();
  turned();
  list();
  meter.show(0, 0);
  byId("unit").hidden = false;
  byId("curves").hidden = false;
  byId("constants").hidden = listed.length === 0;
  window.la2aPage = { at, knob, material, numbers, panels, player, staticCurve, unitNode, meter, inOut };
})();
