// A GGUF file's header, read to refuse a damaged file before llama.cpp maps it: there an assertion ends the process.
#pragma once

#include <string>

namespace edgestill {

struct GgufHeader {
    bool all_float32 = false;
};

// Check magic, version, every length, and that every tensor lies inside the file. Throws Failure.
GgufHeader read_gguf_header(const std::string &path);

}  // namespace edgestill
