"use strict";
/* The model's arithmetic, sample by sample, in double precision: docs/export-format.md says the same in formulas. The
   page runs this file to draw curves, and hands its text to the audio thread, where it is the AudioWorklet's module. */
(() => {
  const LN_9 = Math.log(9);
  const LEVEL_FLOOR = 1e-8; // of what the detector hears
  const NEXT_TO_NOTHING = 1e-300; // what is smaller is made zero: a subnormal would linger in silence and take long
  const GLIDE_STEP = 16; // samples for which parameters stand still on their way
  const REFERENCE_HZ = 1000; // where shelf and output filter have unit gain
  const POLE_HZ = 10; // of the output filter's slow pole
  const DARK = 0.001, LOUDEST = 1e9; // drives between which the panel's light is computed
  const BYPASS_MS = 10; // time of the fade into bypass and out of it
  const METERS = 3; // gain, loudest input and loudest output of the channels, sample by sample

  const gainOf = (db) => Math.pow(10, db / 20);
  const coefficientOf = (ms, rate) => -Math.expm1((-LN_9 * 1000) / (ms * rate));
  const poleOf = (hz, rate) => -Math.expm1((-2 * Math.PI * hz) / rate);
  const settled = (value) => (Math.abs(value) < NEXT_TO_NOTHING ? 0 : value);
  const finiteOrZero = (value) => (Math.abs(value) < Infinity ? value : 0);

  /* Parameters by name at a position of switch and knob, written into an object that has them all. */
  function parametersAt(model, switchAt, knobAt, into) {
    const { low, high } = model.knob;
    const row = model.switch === null ? 0
      : Math.min(Math.max(Math.round(switchAt), model.switch.low), model.switch.high) - model.switch.low;
    const share = Math.min(Math.max((knobAt - low) / (high - low), 0), 1);
    for (const name in model.curves) {
      const v = model.curves[name].values[row];
      const p = (v.length - 1) * share;
      const i = Math.min(Math.floor(p), v.length - 2);
      const f = p - i;
      into[name] = model.curves[name].scale === "log"
        ? v[i] * Math.pow(v[i + 1] / v[i], f) : v[i] + f * (v[i + 1] - v[i]);
    }
    return into;
  }

  /* A straight line by equal ratios or equal steps, never beyond its ends. */
  function between(start, end, share, byRatio) {
    const value = byRatio ? start * Math.pow(end / start, share) : start + share * (end - start);
    return Math.min(Math.max(value, Math.min(start, end)), Math.max(start, end));
  }

  /* dB by which the quadratic knee says that a level is over the threshold. */
  function overThreshold(level_db, p) {
    const o = level_db - p.threshold_db;
    const half = p.knee_db / 2;
    if (o <= -half) return 0;
    return o >= half ? o : ((o + half) * (o + half)) / (2 * p.knee_db);
  }

  /* dB of reduction per dB over the threshold, where the detector hears the input, or the output. */
  const slopeOf = (p, feedback) => (feedback ? p.ratio - 1 : 1 - 1 / p.ratio);

  /* Light of the panel for a drive; 1 at a drive of 1. */
  function lightOf(drive, p) {
    const u = drive > DARK ? Math.min(drive, LOUDEST) : DARK;
    if (u === DARK) return 0;
    const q = 1 + (u * u - 1) / (p.drive_limit * p.drive_limit);
    return Math.exp(p.light_exponent * (1 - Math.sqrt(Math.sqrt(q) / u)));
  }

  class Compressor {
    constructor(model, rate, channels) {
      this.rate = rate;
      this.feedback = model.feedback;
      this.memory = new Float64Array(channels); // of the side-chain shelf
      this.fedBack = new Float64Array(channels);
      this.fast = 1;
      this.slow = 1;
      this.cosine = Math.cos((2 * Math.PI * REFERENCE_HZ) / rate);
      this.b0 = 1;
      this.b1 = 0;
      this.a1 = 0;
    }

    set(p) {
      this.p = p;
      this.slope = slopeOf(p, this.feedback);
      const factor = p.slow_factor === undefined ? 1 : p.slow_factor;
      this.mix = p.slow_mix === undefined ? 0 : p.slow_mix;
      this.attack = coefficientOf(p.attack_ms, this.rate);
      this.release = coefficientOf(p.release_ms, this.rate);
      this.slowAttack = coefficientOf(p.attack_ms * factor, this.rate);
      this.slowRelease = coefficientOf(p.release_ms * factor, this.rate);
      this.makeup = gainOf(p.makeup_db);
      if (p.shelf_db === undefined) return;
      const r = gainOf(p.shelf_db / 2);
      const t = Math.tan((Math.PI * p.shelf_hz) / this.rate);
      const a0 = t + 1 / r;
      const k = this.magnitude(t + r, t - r) / this.magnitude(a0, t - 1 / r);
      this.b0 = (t + r) / (a0 * k);
      this.b1 = (t - r) / (a0 * k);
      this.a1 = (t - 1 / r) / a0;
    }

    magnitude(p, q) { return Math.sqrt(p * p + q * q + 2 * this.cosine * p * q); }

    /* One gain for all channels, led by the loudest; `played` receives double precision. */
    play(input, played, gains, start, end) {
      for (let n = start; n < end; n += 1) {
        let loudest = 0;
        for (let c = 0; c < input.length; c += 1) {
          const d = this.feedback ? this.fedBack[c] : input[c][n];
          const s = this.b0 * d + this.memory[c];
          this.memory[c] = finiteOrZero(settled(this.b1 * d - this.a1 * s));
          if (Math.abs(s) > loudest) loudest = Math.abs(s);
        }
        const level_db = 20 * Math.log10(Math.max(loudest, LEVEL_FLOOR));
        const target = gainOf(-this.slope * overThreshold(level_db, this.p));
        this.fast += (target < this.fast ? this.attack : this.release) * (target - this.fast);
        this.slow += (target < this.slow ? this.slowAttack : this.slowRelease) * (target - this.slow);
        const g = this.fast + this.mix * (this.slow - this.fast);
        gains[n] = g;
        for (let c = 0; c < input.length; c += 1) {
          const v = input[c][n] * g;
          this.fedBack[c] = finiteOrZero(v);
          played[c][n] = v * this.makeup;
        }
      }
      this.fast = settled(this.fast);
      this.slow = settled(this.slow);
    }
  }

  class OpticalCell {
    constructor(model, rate, channels) {
      this.rate = rate;
      this.low = new Float64Array(channels); // what the side-chain's high-pass takes away
      this.n = 0;
      this.glow = 0;
      this.m1 = 0;
      this.m2 = 0;
    }

    set(p) {
      const rate = this.rate;
      this.p = p;
      this.drive = gainOf(p.sidechain_gain_db);
      this.most = gainOf(p.largest_reduction_db) - 1;
      this.corner = poleOf(p.highpass_hz, rate);
      this.rise = coefficientOf(p.light_ms, rate);
      this.decay = p.recombination_per_s / rate;
      this.pair = p.pair_recombination_per_s / rate;
      const fast = p.fast_trap_capacity !== undefined, slow = p.slow_trap_release_per_s !== undefined;
      this.capacity = fast ? p.fast_trap_capacity : 1;
      this.k1 = fast ? p.fast_trap_capture_per_s / (this.capacity * rate) : 0;
      this.r1 = fast ? p.fast_trap_release_per_s / rate : 0;
      this.k2 = slow ? p.slow_trap_capture_per_s / rate : 0;
      this.r2 = slow ? p.slow_trap_release_per_s / rate : 0;
      this.makeup = gainOf(p.makeup_db);
    }

    /* One cell for all channels, driven by the one whose side-chain is loudest. */
    play(input, played, gains, start, end) {
      const { decay, pair, capacity, k1, r1, k2, r2 } = this;
      for (let at = start; at < end; at += 1) {
        const free = this.n / this.most;
        const g = (1 + free) / (1 + free + this.n);
        let h = 0;
        for (let c = 0; c < input.length; c += 1) {
          const x = input[c][at];
          const heard = finiteOrZero(x);
          const v = heard * g;
          const own = v + this.p.input_tap * (heard - v) - this.low[c];
          this.low[c] += this.corner * own;
          if (Math.abs(own) > h) h = Math.abs(own);
          played[c][at] = x * g * this.makeup;
        }
        gains[at] = g;
        this.glow += this.rise * (lightOf(this.drive * h, this.p) - this.glow);
        this.n = (this.n + (decay + pair) * this.glow + r1 * this.m1 + r2 * this.m2)
          / (1 + decay + pair * this.n + k1 * (capacity - this.m1) + k2);
        this.m1 = (this.m1 + k1 * capacity * this.n) / (1 + k1 * this.n + r1);
        this.m2 = (this.m2 + k2 * this.n) / (1 + r2);
      }
      this.n = settled(this.n);
      this.glow = settled(this.glow);
      this.m1 = settled(this.m1);
      this.m2 = settled(this.m2);
      for (let c = 0; c < this.low.length; c += 1) this.low[c] = settled(this.low[c]);
    }
  }

  /* Delay and colour after the gain, of one channel: 2 L + 1 taps and a slow pole, L samples late. */
  class OutputFilter {
    constructor(taps, rate) {
      this.count = taps.length - 1;
      this.taps = Float64Array.from(taps);
      this.past = new Float64Array(2 * this.count); // twice, so that the last samples lie side by side
      this.place = 0;
      this.coefficient = poleOf(POLE_HZ, rate);
      this.slow = 0;
    }

    play(signal, start, end) {
      const { count, taps, past } = this;
      const latency = (count - 1) / 2;
      for (let n = start; n < end; n += 1) {
        this.place = this.place === 0 ? count - 1 : this.place - 1;
        past[this.place] = signal[n];
        past[this.place + count] = signal[n];
        this.slow += this.coefficient * (finiteOrZero(past[this.place + latency]) - this.slow);
        let total = taps[count] * this.slow;
        for (let k = 0; k < count; k += 1) total += taps[k] * past[this.place + k];
        signal[n] = total;
      }
      this.slow = settled(this.slow);
    }
  }

  /* As many samples late as the output filter, for bypass. */
  class Delay {
    constructor(samples) {
      this.past = new Float32Array(samples + 1);
      this.place = 0;
    }

    next(x) {
      this.past[this.place] = x;
      this.place = this.place + 1 === this.past.length ? 0 : this.place + 1;
      return this.past[this.place];
    }
  }

  /* Taps of the rate, or where it isn't in the table of the nearest one; none without an output filter. */
  function tapsAt(model, rate) {
    if (model.output_filter === null) return null;
    const apart = (known) => Math.abs(Math.log(Number(known) / rate));
    const rates = Object.keys(model.output_filter.taps).sort((a, b) => apart(a) - apart(b));
    return model.output_filter.taps[rates[0]];
  }

  /* A model at one sample rate, block by block, with knob and switch that may move meanwhile. */
  class Unit {
    constructor(model, rate, channels, most = 128) {
      this.model = model;
      this.core = model.family === "optical-cell"
        ? new OpticalCell(model, rate, channels) : new Compressor(model, rate, channels);
      const taps = tapsAt(model, rate);
      this.latency = taps === null ? 0 : taps.length / 2 - 1;
      const each = (make) => Array.from({ length: channels }, make);
      this.filters = taps === null ? [] : each(() => new OutputFilter(taps, rate));
      this.dry = each(() => new Delay(this.latency));
      this.input = new Array(channels);
      this.silence = new Float32Array(most);
      this.played = each(() => new Float64Array(most));
      this.gains = new Float64Array(most);
      this.steps = Math.max(1, Math.round((1e-3 * model.glide_ms * rate) / GLIDE_STEP)); // of a glide
      this.gliding = false;
      this.place = 0; // samples since the move
      this.names = Object.keys(model.curves);
      this.start = { ...model.constants };
      this.end = { ...model.constants };
      this.next = { ...model.constants };
      this.now = { ...model.constants };
      this.switchAt = NaN;
      this.knobAt = NaN;
      this.wet = NaN;
      this.fade = 1000 / (BYPASS_MS * rate);
    }

    /* From the next sample on; the first time at once, then over the time of a glide. */
    move(switchAt, knobAt) {
      if (switchAt === this.switchAt && knobAt === this.knobAt) return;
      const first = Number.isNaN(this.knobAt);
      this.switchAt = switchAt;
      this.knobAt = knobAt;
      parametersAt(this.model, switchAt, knobAt, this.next);
      let moves = false;
      for (const name of this.names) {
        moves = moves || this.next[name] !== this.end[name];
        this.start[name] = this.now[name];
        this.end[name] = this.next[name];
      }
      if (first) this.arrive();
      else if (moves) {
        this.gliding = true;
        this.place = 0;
        this.follow();
      }
    }

    follow() {
      const step = Math.floor(this.place / GLIDE_STEP) + 1;
      if (step >= this.steps) {
        this.arrive();
        return;
      }
      for (let k = 0; k < this.names.length; k += 1) {
        const name = this.names[k], byRatio = this.model.curves[name].scale === "log";
        this.now[name] = between(this.start[name], this.end[name], step / this.steps, byRatio);
      }
      this.core.set(this.now);
    }

    arrive() {
      this.gliding = false;
      for (const name of this.names) this.now[name] = this.end[name];
      this.core.set(this.now);
    }

    /* `input` and `output` are channels of one block; `meters` has METERS channels, or is undefined. */
    process(input, output, meters, bypass) {
      const frames = output[0].length, channels = output.length;
      for (let c = 0; c < channels; c += 1) this.input[c] = input.length > c ? input[c] : this.silence;
      let start = 0;
      while (start < frames) {
        const end = this.gliding ? Math.min(frames, start + GLIDE_STEP - (this.place % GLIDE_STEP)) : frames;
        this.core.play(this.input, this.played, this.gains, start, end);
        if (this.gliding) {
          this.place += end - start;
          this.follow();
        }
        start = end;
      }
      for (let c = 0; c < this.filters.length; c += 1) this.filters[c].play(this.played[c], 0, frames);
      if (Number.isNaN(this.wet)) this.wet = bypass ? 0 : 1;
      for (let n = 0; n < frames; n += 1) {
        this.wet = bypass ? Math.max(0, this.wet - this.fade) : Math.min(1, this.wet + this.fade);
        for (let c = 0; c < channels; c += 1) {
          const x = this.dry[c].next(this.input[c][n]);
          const y = this.played[c][n];
          output[c][n] = this.wet === 1 ? y : this.wet === 0 ? x : x + this.wet * (y - x);
        }
      }
      if (meters !== undefined) this.measure(output, meters, frames);
    }

    measure(output, meters, frames) {
      for (let n = 0; n < frames; n += 1) {
        meters[0][n] = this.gains[n];
        meters[1][n] = 0;
        meters[2][n] = 0;
        for (let c = 0; c < output.length; c += 1) {
          meters[1][n] = Math.max(meters[1][n], Math.abs(this.input[c][n]));
          meters[2][n] = Math.max(meters[2][n], Math.abs(output[c][n]));
        }
      }
    }
  }

  const NAME = "la2a-unit";
  globalThis.la2aUnit = { NAME, METERS, Unit, parametersAt, overThreshold, slopeOf, lightOf, gainOf, tapsAt };
  if (typeof registerProcessor !== "function") return; // in the page

  registerProcessor(NAME, class extends AudioWorkletProcessor {
    static get parameterDescriptors() {
      return ["knob", "switch", "bypass"].map((name) => ({ name, defaultValue: 0, automationRate: "k-rate" }));
    }

    constructor(options) {
      super();
      const { model, channels } = options.processorOptions;
      this.unit = new Unit(model, sampleRate, channels);
    }

    process(inputs, outputs, parameters) {
      this.unit.move(parameters.switch[0], parameters.knob[0]);
      this.unit.process(inputs[0], outputs[0], outputs[1], parameters.bypass[0] > 0.5);
      return true;
    }
  });
})();
