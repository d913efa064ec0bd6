// The machine that a measurement is taken on, from what its system says.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace edgestill {

// edgestill.bench's `environment`; null or empty where the system doesn't say.
nlohmann::ordered_json environment_json();

// Bytes of a line of a file of "Name:   123 kB" lines; null where there is none.
nlohmann::ordered_json kilobytes_of(const char *path, const char *name);

}  // namespace edgestill
