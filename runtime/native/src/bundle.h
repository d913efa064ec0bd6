// A bundle's manifest and files, as Python's edgestill.bundle checks them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace edgestill {

struct FileEntry {
    uint64_t size = 0;
    std::string sha256;
};

struct BundleArtifact {
    std::string name;
    std::string format;
    std::string precision;
    std::string entry;  // the model's file, relative to the artifact's folder
};

struct Manifest {
    std::string folder;
    std::string digest;
    std::string ship;  // empty: none is named
    std::vector<BundleArtifact> artifacts;
    std::map<std::string, FileEntry> files;  // by path, relative, POSIX style

    // The artifact of a name; empty: the shipped one if it is GGUF, else the first that is. Throws Failure.
    const BundleArtifact &artifact(const std::string &name) const;

    // Check the sizes, and with `hashes` the sha256, of listed files whose path begins with `prefix`, and that nothing
    // else lies there. Throws Failure.
    void check(const std::string &prefix, bool hashes) const;
};

// Read and check a manifest (not yet its files). Throws Failure.
Manifest read_manifest(const std::string &folder);

}  // namespace edgestill
