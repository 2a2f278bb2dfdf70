"use strict";
/* What there is to play without a file: loops made of sines and noise, the same every time, at any sample rate. */
(() => {
  const { gainOf } = la2aUnit;
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

  globalThis.la2aMaterial = material;
})();
