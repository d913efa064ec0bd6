#include "utf8.h"

#include <cstdint>

namespace edgestill {

namespace {

const char kReplacement[] = "\xEF\xBF\xBD";

struct Lead {
    int length;  // of the character, 0: no lead byte
    uint8_t low, high;  // the range of the second byte
};

// Table 3-7 of the Unicode standard: which second bytes make no overlong form, surrogate, or code past U+10FFFF.
Lead lead_of(uint8_t byte) {
    if (byte < 0x80) return {1, 0, 0};
    if (byte < 0xC2) return {0, 0, 0};
    if (byte < 0xE0) return {2, 0x80, 0xBF};
    if (byte == 0xE0) return {3, 0xA0, 0xBF};
    if (byte == 0xED) return {3, 0x80, 0x9F};
    if (byte < 0xF0) return {3, 0x80, 0xBF};
    if (byte == 0xF0) return {4, 0x90, 0xBF};
    if (byte < 0xF4) return {4, 0x80, 0xBF};
    if (byte == 0xF4) return {4, 0x80, 0x8F};
    return {0, 0, 0};
}

}  // namespace

std::string Utf8Stream::push(const std::string &bytes) {
    held_ += bytes;
    std::string text;
    size_t at = 0;
    while (at < held_.size()) {
        const Lead lead = lead_of(static_cast<uint8_t>(held_[at]));
        if (lead.length == 0) {
            text += kReplacement;
            ++at;
            continue;
        }
        size_t good = 1;
        while (good < static_cast<size_t>(lead.length) && at + good < held_.size()) {
            const auto byte = static_cast<uint8_t>(held_[at + good]);
            const uint8_t low = good == 1 ? lead.low : 0x80;
            const uint8_t high = good == 1 ? lead.high : 0xBF;
            if (byte < low || byte > high) break;
            ++good;
        }
        if (good == static_cast<size_t>(lead.length)) {
            text.append(held_, at, good);
        } else if (at + good == held_.size()) {
            break;  // the rest may come
        } else {
            text += kReplacement;  // one for the longest beginning of a character, as Python does it
        }
        at += good;
    }
    held_.erase(0, at);
    return text;
}

std::string Utf8Stream::finish() {
    if (held_.empty()) return "";
    held_.clear();
    return kReplacement;
}

}  // namespace edgestill
