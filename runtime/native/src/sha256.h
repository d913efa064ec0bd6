// SHA-256 (FIPS 180-4), by the processor's own instructions where it has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

extern "C" {
#include "sha256/sha256.h"
}

namespace edgestill {

class Sha256 {
public:
    // `portable`: without the processor's instructions.
    explicit Sha256(bool portable = false);

    void update(const uint8_t *bytes, size_t size);

    // The digest as lower-case hex; nothing may be added after.
    std::string finish();

private:
    bool own_;  // by our own blocks; else by llama.cpp's portable code
    sha256_t portable_;
    uint32_t state_[8];
    uint8_t block_[64];
    size_t held_ = 0;
    uint64_t total_ = 0;
};

// Whether this processor has instructions for it that this build uses.
bool has_sha256_instructions();

}  // namespace edgestill
