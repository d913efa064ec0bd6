// How fast llama.cpp multiplies weights by a vector on this device.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace edgestill {

// Bytes of `weights` (ggml's name of their type) a second that so many threads multiply, of `read_bytes` in turn.
struct Product {
    std::string weights;
    int threads;
    size_t read_bytes;
    double bytes_per_second;
};

// Products of f32, f16, q8_0 and q4_0 weights, of 16, 128 and 512 MiB, by each number of threads; sizes above
// `most_bytes` are left out.
std::vector<Product> measure_products(const std::vector<int> &threads, size_t most_bytes);

}  // namespace edgestill
