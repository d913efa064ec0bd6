// What a device can do at most.
#pragma once

#include <string>

namespace edgestill {

// JSON of the bytes a second that one core and all cores read from memory, of their int8 and float32 operations a second
// by the engine's kernels, and of the weights that they multiply by a vector. Takes some ten seconds and at most an
// eighth of the free memory.
std::string probe_json();

}  // namespace edgestill
