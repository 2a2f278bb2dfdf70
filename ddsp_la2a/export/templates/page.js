"use strict";
(() => {
  const { model, words, drawn, listed, knob: knobName, positions } = JSON.parse(document.getElementById("page-data").textContent);
  const { parametersAt, gainOf } = la2aUnit;
  const { put, element, polar, ray, arc, pathOf, ticks, niceStep, signed, decibels, short, number } = la2aDrawing;
  const { FEWEST_DBFS, staticCurve } = la2aCurves;
  const { Player } = la2aSound;
  const KNOB_DEGREES = 135; // to either side of straight up
  const DIAL_DEGREES = 50;
  const MOST_DB = 40; // of the dial
  const HOLD_S = 2; // for which the deepest reduction stays
  const TAIL_S = 4; // for which the unit is left running after a stop, so that the needle comes back
  const CALM_S = 0.25; // between drawings for who likes it still
  const TRAIL = 14;

  const byId = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const step = niceStep((model.knob.high - model.knob.low) / 100); // of the knob; there are tenths of it
  const at = {
    knob: model.knob.default,
    switch: model.switch === null ? 0 : model.switch.default,
    bypass: 0,
  };

  /* Words and numbers. */

  function quantity(name, value) {
    const unit = words[name][1];
    if (unit === "ms" && value >= 999.5) return number(value / 1000) + "\u00a0s";
    if (unit === "Hz" && value >= 9995) return number(value / 1000) + "\u00a0kHz";
    if (unit === "×") return "×\u00a0" + number(value);
    return number(value) + (unit === "" ? "" : "\u00a0" + unit);
  }

  const knobText = (value) => signed(String(Number(value.toFixed(Math.max(0, 1 - Math.floor(Math.log10(step)))))));

  /* The unit's positions: what hangs on them is drawn anew, and sounds. */

  const numbers = Array.from({ length: Math.max(1, positions.length) }, () => ({ ...model.constants }));
  const lowest = model.switch === null ? 0 : model.switch.low;
  const chosen = () => at.switch - lowest;

  function turned() {
    numbers.forEach((p, row) => parametersAt(model, lowest + row, at.knob, p));
    knob.show();
    inOut.show();
    panels.forEach((panel) => panel.show());
    player.follow();
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
      const curves = numbers.map((p) => staticCurve(model, p));
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
      if (!seen) {
        trail.forEach((ghost) => ghost.removeAttribute("cx"));
        return;
      }
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

  let drawnAt = -1;
  let drawing = false;

  function draw() {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(function again() {
      const { context } = player, now = context.currentTime;
      if (!player.playing && now - player.stopped > TAIL_S) {
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

  const player = new Player(model, at, (says) => {
    byId("play").textContent = player.playing ? "Stop" : "Play";
    byId("unit").classList.toggle("playing", player.playing);
    byId("status").textContent = says;
    if (!player.playing) return;
    byId("rate").textContent = " Sample rate: " + short(player.context.sampleRate) + " Hz.";
    draw();
  });

  async function load(file) {
    if (!(await player.load(file))) return;
    offer(file.name).click();
    player.play();
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
      player.follow();
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
      player.level_db = Number(level.value);
      player.follow();
    };
    level.addEventListener("input", leveled);
    level.addEventListener("dblclick", () => {
      level.value = 0;
      leveled();
    });
    byId("file").addEventListener("change", () => {
      if (byId("file").files.length) load(byId("file").files[0]);
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
      if (event.dataTransfer.files.length) load(event.dataTransfer.files[0]);
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

  Object.keys(la2aMaterial).forEach(offer);
  document.querySelector("#sources input").checked = true;
  listen();
  legend();
  turned();
  list();
  meter.show(0, 0);
  byId("unit").hidden = false;
  byId("curves").hidden = false;
  byId("constants").hidden = listed.length === 0;
  window.la2aPage = { at, knob, numbers, panels, player, inOut, model };
})();
