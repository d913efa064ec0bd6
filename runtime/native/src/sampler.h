// Choosing the next token: as edgestill.runtime.sampling does it, but for the numbers that are drawn.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "edgestill.h"

namespace edgestill {

class Sampler {
public:
    // Throws Failure for a value out of its range.
    explicit Sampler(const es_generation &generation);

    // The next token's id from `logits`. Throws Failure for NaN.
    int32_t pick(const float *logits, int32_t vocabulary);

private:
    float temperature_, top_p_, min_p_;
    int32_t top_k_;
    std::mt19937_64 random_;
    std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace edgestill
