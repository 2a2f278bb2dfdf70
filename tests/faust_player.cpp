// Plays a Faust program sample by sample for the tests: faust -a faust_player.cpp -lang cpp …
//
//     player RATE CHANNELS BLOCK FRAME=LABEL=VALUE… < raw.f64 > raw.f64
//
// Doubles of all channels, one channel after the other; a control takes its value before the block that holds its frame.
// The last number of the output is what the meter shows.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#ifndef FAUSTFLOAT
#define FAUSTFLOAT double
#endif

struct Meta {
    void declare(const char*, const char*) {}
};

struct UI {
    std::map<std::string, FAUSTFLOAT*> zones;
    std::map<std::string, FAUSTFLOAT> starts;
    void add(const char* label, FAUSTFLOAT* zone) { zones[label] = zone; }
    void openVerticalBox(const char*) {}
    void closeBox() {}
    void declare(FAUSTFLOAT*, const char*, const char*) {}
    void addCheckButton(const char* label, FAUSTFLOAT* zone) { add(label, zone); }
    void addHorizontalSlider(const char* label, FAUSTFLOAT* zone, FAUSTFLOAT, FAUSTFLOAT, FAUSTFLOAT, FAUSTFLOAT) { add(label, zone); }
    void addNumEntry(const char* label, FAUSTFLOAT* zone, FAUSTFLOAT, FAUSTFLOAT, FAUSTFLOAT, FAUSTFLOAT) { add(label, zone); }
    void addHorizontalBargraph(const char* label, FAUSTFLOAT* zone, FAUSTFLOAT, FAUSTFLOAT) { add(label, zone); }
};

struct dsp {
    virtual ~dsp() {}
};

<<includeIntrinsic>>

<<includeclass>>

struct Event {
    size_t frame;
    std::string label;
    FAUSTFLOAT value;
};

int main(int count, char** arguments) {
    const int rate = std::atoi(arguments[1]), channels = std::atoi(arguments[2]);
    const size_t block = std::strtoul(arguments[3], nullptr, 10);
    std::vector<Event> events;
    for (int n = 4; n < count; n++) {
        const std::string text = arguments[n];
        const size_t first = text.find('='), last = text.rfind('=');
        events.push_back({std::strtoul(text.c_str(), nullptr, 10), text.substr(first + 1, last - first - 1),
                          static_cast<FAUSTFLOAT>(std::strtod(text.c_str() + last + 1, nullptr))});
    }
    std::vector<double> samples;
    double buffer[4096];
    size_t got;
    while ((got = std::fread(buffer, sizeof(double), 4096, stdin)) > 0) samples.insert(samples.end(), buffer, buffer + got);
    const size_t frames = samples.size() / static_cast<size_t>(channels);
    std::vector<FAUSTFLOAT> audio(samples.begin(), samples.end());

    mydsp unit;
    UI panel;
    unit.init(rate);
    unit.buildUserInterface(&panel);
    if (unit.getNumInputs() != channels || unit.getNumOutputs() != channels) return 3;
    for (size_t start = 0; start < frames; start += block) {
        const size_t length = std::min(block, frames - start);
        for (const Event& event : events) {
            if (event.frame < start || event.frame >= start + length) continue;
            if (panel.zones.count(event.label) == 0) return 4;
            *panel.zones[event.label] = event.value;
        }
        std::vector<FAUSTFLOAT*> rows;
        for (int channel = 0; channel < channels; channel++) rows.push_back(&audio[static_cast<size_t>(channel) * frames + start]);
        unit.compute(static_cast<int>(length), rows.data(), rows.data());
    }
    samples.assign(audio.begin(), audio.end());
    samples.push_back(*panel.zones.at("Gain Reduction"));
    std::fwrite(samples.data(), sizeof(double), samples.size(), stdout);
    return 0;
}
