"use strict";
(() => {
  const FADE = 0.004; // seconds: time constant of a switch, short enough to be no gap, long enough to be no click
  const LEAD = 0.05; // seconds between a command and the sample it takes effect at, so that all signals start as one
  const COLUMNS = 480;

  const all = JSON.parse(document.getElementById("report-data").textContent);
  let context = null;
  let playing = null;

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  /* Every signal runs all the time, at the same sample; what is heard is a matter of gains alone. */
  function graph(audio, buffers, levels, when, offset, loop, destination) {
    return buffers.map((buffer, number) => {
      const source = audio.createBufferSource();
      const gain = audio.createGain();
      source.buffer = buffer;
      source.loop = loop;
      gain.gain.setValueAtTime(0, audio.currentTime);
      gain.gain.setTargetAtTime(levels[number], when, FADE);
      source.connect(gain).connect(destination);
      source.start(when, offset);
      return { source, gain: gain.gain };
    });
  }

  function fade(nodes, levels, when) {
    nodes.forEach((node, number) => {
      node.gain.cancelScheduledValues(when);
      node.gain.setTargetAtTime(levels[number], when, FADE);
    });
  }

  function path(encoded, by) {
    const ends = new Int8Array(bytesOf(encoded).buffer);
    const down = (step) => (50 - (49 * Math.max(-127, Math.min(127, by * step))) / 127).toFixed(1);
    const high = [], low = [];
    for (let x = 0; x < COLUMNS; x += 1) {
      high.push(x + " " + down(ends[2 * x + 1]));
      low.push(x + " " + down(ends[2 * x]));
    }
    return "M" + high.concat(low.reverse()).join("L") + "z";
  }

  class Player {
    constructor(root, data, number) {
      this.root = root;
      this.data = data;
      this.number = number;
      this.buffers = null;
      this.nodes = null;
      this.when = 0; // time of the audio clock at which the nodes started
      this.offset = 0; // seconds into the passage at that time, or where it rests
      this.starts = 0;
      const find = (name) => root.querySelector("[data-part=" + name + "]");
      this.radios = Array.from(root.querySelectorAll("input[type=radio]"));
      this.play = find("play");
      this.loop = find("loop");
      this.match = find("match");
      this.time = find("time");
      this.status = find("status");
      this.slider = find("seek");
      this.wave = find("wave");
      this.residual = find("residual");
      this.cursors = Array.from(root.querySelectorAll(".cursor"));
      this.listen();
      this.draw();
      this.show();
      find("controls").hidden = false;
    }

    get chosen() { return this.radios.findIndex((radio) => radio.checked); }

    levels() {
      return this.data.signals.map((signal, number) => number === this.chosen
        ? signal.scale * this.data.volume * (this.match.checked ? signal.matched : 1) : 0);
    }

    position(loop = this.loop.checked) {
      if (!this.nodes) return this.offset;
      const since = Math.max(0, context.currentTime - this.when);
      const at = this.offset + since;
      return loop || at < this.data.seconds ? at % this.data.seconds : this.data.seconds;
    }

    async load() {
      context = context || new AudioContext({ sampleRate: this.data.rate });
      const ready = context.resume();
      if (!this.buffers) {
        this.say("Decoding …");
        this.buffers = await Promise.all(this.data.signals.map((_, number) => {
          const text = document.getElementById("audio-" + this.number + "-" + number).textContent;
          return context.decodeAudioData(bytesOf(text).buffer);
        }));
      }
      await ready;
    }

    async start() {
      if (playing && playing !== this) playing.stop();
      playing = this;
      try {
        await this.load();
      } catch (error) {
        this.say("This browser can’t play the recordings here: " + error.message);
        playing = null;
        return;
      }
      if (playing !== this) return; // another passage was started while this one was decoded
      this.run(this.offset >= this.data.seconds - 0.01 ? 0 : this.offset);
    }

    run(offset) {
      this.silence();
      this.when = context.currentTime + LEAD;
      this.offset = offset;
      this.starts += 1;
      const loop = this.loop.checked;
      const nodes = graph(context, this.buffers, this.levels(), this.when, offset, loop, context.destination);
      nodes[0].source.onended = () => {
        if (this.nodes === nodes) { this.stop(); this.offset = 0; this.show(); }
      };
      this.nodes = nodes;
      this.announce();
      this.show();
      requestAnimationFrame(() => this.tick());
    }

    silence() {
      if (!this.nodes) return;
      const old = this.nodes;
      this.nodes = null;
      fade(old, old.map(() => 0), context.currentTime);
      old.forEach((node) => node.source.stop(context.currentTime + 10 * FADE));
    }

    stop() {
      this.offset = this.position();
      this.silence();
      if (playing === this) playing = null;
      this.say("Stopped");
      this.show();
    }

    toggle() { if (playing === this) this.stop(); else this.start(); }

    seek(seconds) {
      const to = Math.max(0, Math.min(this.data.seconds - 0.01, seconds));
      if (this.nodes) this.run(to); else { this.offset = to; this.show(); }
    }

    choose(number) {
      const count = this.radios.length;
      const radio = this.radios[(number + count) % count];
      radio.checked = true;
      this.changed();
      return radio;
    }

    changed() {
      if (this.nodes) fade(this.nodes, this.levels(), context.currentTime);
      this.draw();
      if (this.nodes) this.announce();
    }

    looped() {
      if (!this.nodes) return;
      const at = this.position(!this.loop.checked); // the count of rounds starts anew, so that the place stays right
      const past = Math.max(0, context.currentTime - this.when);
      this.offset = at;
      this.when += past;
      this.nodes.forEach((node) => { node.source.loop = this.loop.checked; });
    }

    announce() { this.say("Playing " + this.radios[this.chosen].dataset.name); }
    say(text) { if (this.status.textContent !== text) this.status.textContent = text; }

    draw() {
      const signal = this.data.signals[this.chosen];
      const matched = this.match.checked;
      this.wave.setAttribute("d", path(signal.wave, matched ? signal.matched : 1));
      this.residual.setAttribute("d", path(matched ? signal.residualMatched : signal.residual, 1));
    }

    show() {
      const at = this.position();
      const x = (COLUMNS * at) / this.data.seconds;
      this.cursors.forEach((cursor) => { cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); });
      const text = at.toFixed(1) + " s of " + this.data.seconds.toFixed(1) + " s";
      if (this.time.textContent !== text) {
        this.time.textContent = text;
        this.slider.setAttribute("aria-valuenow", at.toFixed(1));
        this.slider.setAttribute("aria-valuetext", text);
      }
      const label = playing === this ? "Stop" : "Play";
      if (this.play.textContent !== label) this.play.textContent = label;
      this.root.classList.toggle("playing", playing === this);
    }

    tick() {
      if (!this.nodes) return;
      this.show();
      requestAnimationFrame(() => this.tick());
    }

    listen() {
      this.play.addEventListener("click", () => this.toggle());
      this.loop.addEventListener("change", () => this.looped());
      this.match.addEventListener("change", () => this.changed());
      this.radios.forEach((radio) => radio.addEventListener("change", () => this.changed()));
      this.root.querySelectorAll("svg.wave").forEach((drawing) => {
        drawing.addEventListener("pointerdown", (event) => {
          if (event.button !== 0) return;
          const box = drawing.getBoundingClientRect();
          this.seek((this.data.seconds * (event.clientX - box.left)) / box.width);
        });
      });
      this.root.addEventListener("keydown", (event) => this.key(event));
    }

    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const seeking = event.target === this.slider;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const up = { ArrowRight: 0.5, ArrowUp: 0.5, ArrowLeft: -0.5, ArrowDown: -0.5 }[event.key];
      if (seeking && up) this.seek(this.position() + up);
      else if (seeking && event.key === "Home") this.seek(0);
      else if (seeking && event.key === "End") this.seek(this.data.seconds);
      else if (step) this.choose(this.chosen + step).focus();
      else if (event.key === " " && ["checkbox", "button"].includes(event.target.type)) return; // it does what it says
      else if (event.key === " ") { if (!event.repeat) this.toggle(); }
      else if (event.key === "l" || event.key === "L") { this.match.checked = !this.match.checked; this.changed(); }
      else if (/^[1-9]$/.test(event.key) && Number(event.key) <= this.radios.length) this.choose(Number(event.key) - 1);
      else if (event.key === "0" && this.radios.length > 9) this.choose(9);
      else return;
      event.preventDefault();
    }

    /* What is going on, for those who test the page. */
    inspect() {
      return {
        playing: playing === this && this.nodes !== null,
        position: this.position(),
        clock: context ? context.currentTime : 0,
        starts: this.starts,
        chosen: this.chosen,
        levels: this.levels(),
        gains: this.nodes ? this.nodes.map((node) => node.gain.value) : [],
        decoded: this.buffers ? this.buffers.length : 0,
        loop: this.nodes ? this.nodes.every((node) => node.source.loop) : false,
      };
    }
  }

  const roots = Array.from(document.querySelectorAll(".player"));
  const players = roots.map((root, number) => new Player(root, all[number], number));
  window.la2aReport = { players, graph, fade };
})();
