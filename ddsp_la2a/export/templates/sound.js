"use strict";
/* Sound: source → its own fade → input level → the unit → out; beside it what the meters read. */
(() => {
  const { NAME, METERS, gainOf } = la2aUnit;
  const FADE = 0.004; // seconds: time constant of what starts and stops

  /* The arithmetic's text as a module of the audio thread. From a page that is a file, Chromium takes it under a data:
     address but not under a blob: one; where data: isn't taken, blob: is tried. */
  async function addModule(audio) {
    const text = document.getElementById("processor").textContent;
    try {
      await audio.audioWorklet.addModule("data:text/javascript;charset=utf-8," + encodeURIComponent(text));
    } catch (error) {
      const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
      await audio.audioWorklet.addModule(address);
      URL.revokeObjectURL(address);
    }
  }

  /* The unit in a graph: its first output is what is heard, its second what meters read, sample by sample. Its
     AudioParams knob, switch and bypass are positions. */
  async function unitNode(model, audio, channels, parameterData) {
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

  class Player {
    /* `at` are positions by name; `changed` is called when it starts or stops, and with what there is to say. */
    constructor(model, at, changed) {
      this.model = model;
      this.at = at;
      this.changed = changed;
      this.context = null; // nothing sounds, and nothing is asked for, before a click
      this.ready = null;
      this.unit = null;
      this.source = null;
      this.sounds = new Map(); // by name, as AudioBuffers of the context's rate
      this.chosen = Object.keys(la2aMaterial)[0];
      this.level_db = 0;
      this.starts = 0;
      this.stopped = 0; // when, by the audio clock
    }

    get playing() { return this.source !== null; }

    prepare() {
      this.ready = this.ready || this.build();
      this.ready.catch(() => { this.ready = null; }); // so that it may be tried again
      return this.ready;
    }

    async build() {
      const { model } = this;
      this.context = new AudioContext();
      if (model.output_filter !== null && !(String(this.context.sampleRate) in model.output_filter.taps)) {
        await this.context.close(); // a rate that the output filter wasn't matched to
        this.context = new AudioContext({ sampleRate: 48000 });
      }
      const { context } = this;
      const unit = await unitNode(model, context, 2, this.at);
      this.level = context.createGain();
      this.level.gain.value = gainOf(this.level_db);
      this.level.connect(unit).connect(context.destination, 0);
      const split = context.createChannelSplitter(METERS);
      unit.connect(split, 1);
      this.readings = Array.from({ length: METERS }, (_, channel) => {
        const analyser = context.createAnalyser();
        split.connect(analyser, channel);
        return analyser;
      });
      this.window = new Float32Array(this.readings[0].fftSize);
      this.unit = unit;
      this.follow(); // what was moved meanwhile
    }

    async play() {
      const wanted = (this.starts += 1);
      try {
        await this.prepare();
        await this.context.resume();
      } catch (error) {
        this.changed("This browser can’t play here: " + error.message);
        return;
      }
      if (wanted !== this.starts) return; // something else was asked for meanwhile
      this.fadeOut();
      const { context } = this;
      if (!this.sounds.has(this.chosen)) {
        const samples = la2aMaterial[this.chosen](context.sampleRate);
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
      this.changed("Playing " + this.chosen);
    }

    fadeOut() {
      if (this.source === null) return;
      const { source, gain } = this.source, now = this.context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(0, now, FADE);
      source.stop(now + 10 * FADE);
      this.source = null;
      this.stopped = now;
    }

    stop() {
      this.starts += 1;
      this.fadeOut();
      this.changed("");
    }

    toggle() { return this.playing ? this.stop() : this.play(); }

    choose(name) {
      this.chosen = name;
      if (this.playing) this.play();
    }

    /* A file's sound, under its name; false where it isn't audio. */
    async load(file) {
      this.changed("Reading …");
      try {
        await this.prepare();
        this.sounds.set(file.name, await this.context.decodeAudioData(await file.arrayBuffer()));
        return true;
      } catch (error) {
        this.changed("This browser can’t read that file as audio.");
        return false;
      }
    }

    /* To where the controls are. */
    follow() {
      if (this.unit === null) return;
      for (const name in this.at) this.unit.parameters.get(name).value = this.at[name];
      this.level.gain.setTargetAtTime(gainOf(this.level_db), this.context.currentTime, FADE);
    }

    /* What the meters read: levels over the last twentieth of a second, reduction at its end. */
    read() {
      const largest_db = (analyser) => {
        analyser.getFloatTimeDomainData(this.window);
        return 20 * Math.log10(Math.max(this.window.reduce((most, x) => (x > most ? x : most), 0), 1e-9));
      };
      const [gain, input, output] = this.readings;
      const levels = { input_db: largest_db(input), output_db: largest_db(output) };
      gain.getFloatTimeDomainData(this.window);
      const last = this.window[this.window.length - 1];
      return { ...levels, reduction_db: last > 0 ? Math.max(0, -20 * Math.log10(last)) : 0 };
    }
  }

  globalThis.la2aSound = { unitNode, Player };
})();
