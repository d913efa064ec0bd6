// Reading files whole or by hash, and writing them whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgestill {

bool is_file(const std::string &path);
bool is_folder(const std::string &path);

// Bytes of a file. Throws Failure (not found, unreadable).
uint64_t file_size(const std::string &path);

// All of a file of at most `most` bytes. Throws Failure.
std::string read_file(const std::string &path, uint64_t most);

// The sha256 of bytes, or of a file's, as lower-case hex. Throws Failure.
std::string sha256_of(const std::string &bytes);
std::string sha256_of_file(const std::string &path);

// Write a temporary sibling, sync it and rename it. Throws Failure; then nothing is left of it.
void write_whole(const std::string &path, const std::vector<uint8_t> &bytes);

}  // namespace edgestill
