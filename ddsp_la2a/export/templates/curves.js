"use strict";
/* What comes out for a steady level. */
(() => {
  const { overThreshold, slopeOf, lightOf, gainOf } = la2aUnit;
  const FEWEST_DBFS = -60;

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
  function staticCurve(model, p) {
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

  globalThis.la2aCurves = { FEWEST_DBFS, restingGain, staticCurve };
})();
