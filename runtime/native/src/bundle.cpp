#include "bundle.h"

#include <algorithm>
#include <set>

#include <dirent.h>

#include <nlohmann/json.hpp>

#include "failure.h"
#include "files.h"

namespace edgestill {

namespace {

using json = nlohmann::json;

constexpr uint64_t kMostManifest = 64u << 20;
constexpr size_t kHexDigits = 64;
const char kSchema[] = "edgestill.bundle/1";
const char kFamily[] = "edgestill.bundle/";
const char kDigestKey[] = "\"digest\": \"";

[[noreturn]] void changed(const std::string &path, const std::string &what) {
    throw Failure(ES_CHANGED, path + ": " + what);
}

bool is_hex(const std::string &text) {
    return text.size() == kHexDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Whether a path stays inside its folder: relative, of plain parts.
bool stays_inside(const std::string &path) {
    if (path.empty() || path.front() == '/' || path.find('\\') != std::string::npos) return false;
    if (path.find('\0') != std::string::npos) return false;
    size_t start = 0;
    while (start <= path.size()) {
        const size_t end = std::min(path.find('/', start), path.size());
        const std::string part = path.substr(start, end - start);
        if (part.empty() || part == "." || part == "..") return false;
        start = end + 1;
    }
    return true;
}

bool is_name(const std::string &text) {
    const std::string first = "abcdefghijklmnopqrstuvwxyz0123456789";
    if (text.empty() || first.find(text.front()) == std::string::npos) return false;
    return text.find_first_not_of(first + "_.-") == std::string::npos;
}

// The sha256 of the manifest's text with its own digest blanked.
std::string digest_of(const std::string &path, const std::string &text) {
    const size_t at = text.find(kDigestKey);
    if (at == std::string::npos) changed(path, "no digest in it");
    const size_t start = at + sizeof(kDigestKey) - 1;
    if (text.size() < start + kHexDigits) changed(path, "no digest in it");
    std::string blanked = text;
    blanked.replace(start, kHexDigits, kHexDigits, '0');
    return sha256_of(blanked);
}

std::string text_of(const json &object, const char *key) {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return "";
    return found->get<std::string>();
}

// Paths below a folder, relative to the bundle's.
void list_files(const std::string &folder, const std::string &prefix, std::set<std::string> &found) {
    DIR *opened = opendir((folder + "/" + prefix).c_str());
    if (opened == nullptr) return;
    std::vector<std::string> names;
    while (const dirent *entry = readdir(opened)) names.emplace_back(entry->d_name);
    closedir(opened);
    for (const std::string &name : names) {
        if (name == "." || name == "..") continue;
        const std::string path = prefix + "/" + name;
        if (is_folder(folder + "/" + path)) {
            list_files(folder, path, found);
        } else {
            found.insert(path);
        }
    }
}

Manifest parsed(const std::string &folder, const std::string &path, const std::string &text) {
    const json value = json::parse(text);
    const std::string schema = value.is_object() ? text_of(value, "schema") : "";
    if (schema != kSchema) {
        const bool later = schema.compare(0, sizeof(kFamily) - 1, kFamily) == 0;
        throw Failure(later ? ES_VERSION : ES_CHANGED, path + ": schema '" + schema + "' is not '" + kSchema +
                                                           "'; update edgestill or pack the bundle again");
    }
    Manifest manifest;
    manifest.folder = folder;
    manifest.digest = value.at("digest").get<std::string>();
    if (digest_of(path, text) != manifest.digest) changed(path, "changed after packing (its digest doesn't match)");
    manifest.ship = text_of(value, "ship");
    for (const json &one : value.at("artifacts")) {
        BundleArtifact artifact{text_of(one, "name"), text_of(one, "format"), text_of(one, "precision"),
                                text_of(one, "entry")};
        if (!is_name(artifact.name) || !stays_inside(artifact.entry)) changed(path, "an artifact leaves the bundle");
        manifest.artifacts.push_back(std::move(artifact));
    }
    for (const json &one : value.at("files")) {
        const std::string name = text_of(one, "path");
        FileEntry entry{one.at("size_bytes").get<uint64_t>(), text_of(one, "sha256")};
        if (!stays_inside(name)) changed(path, "file path '" + name + "' leaves the bundle");
        if (!is_hex(entry.sha256)) changed(path, "file '" + name + "' has no sha256");
        manifest.files[name] = std::move(entry);
    }
    return manifest;
}

}  // namespace

const BundleArtifact &Manifest::artifact(const std::string &name) const {
    const std::string wanted = name.empty() ? ship : name;
    const BundleArtifact *first = nullptr;
    std::string known;
    for (const BundleArtifact &one : artifacts) {
        const bool gguf = one.format == "gguf";
        if (one.name == wanted && gguf) return one;
        if (one.name == name) {
            throw Failure(ES_USAGE, "artifact '" + name + "' is " + one.format + "; this library runs gguf");
        }
        if (gguf && first == nullptr) first = &one;
        if (gguf) known += (known.empty() ? "" : ", ") + one.name;
    }
    if (name.empty() && first != nullptr) return *first;
    throw Failure(ES_NOT_FOUND, (name.empty() ? "no gguf artifact" : "no artifact '" + name + "'") +
                                    std::string(" in the bundle; there are: ") + (known.empty() ? "none" : known));
}

void Manifest::check(const std::string &prefix, bool hashes) const {
    std::set<std::string> found;
    if (is_folder(folder + "/" + prefix)) {
        list_files(folder, prefix, found);
    } else if (is_file(folder + "/" + prefix)) {
        found.insert(prefix);
    }
    for (const auto &[name, entry] : files) {
        if (name != prefix && name.compare(0, prefix.size() + 1, prefix + "/") != 0) continue;
        const std::string path = folder + "/" + name;
        if (found.erase(name) == 0) throw Failure(ES_CHANGED, path + ": missing; copy the bundle again");
        const uint64_t size = file_size(path);
        if (size != entry.size) {
            changed(path, std::to_string(size) + " bytes, the manifest says " + std::to_string(entry.size));
        }
        if (hashes && sha256_of_file(path) != entry.sha256) {
            changed(path, "its bytes changed (sha256 differs from the manifest)");
        }
    }
    if (!found.empty()) changed(folder + "/" + *found.begin(), "not in the manifest; remove it");
}

Manifest read_manifest(const std::string &folder) {
    const std::string path = folder + "/manifest.json";
    if (!is_file(path)) throw Failure(ES_NOT_FOUND, folder + ": no manifest.json in it; give a bundle's folder");
    const std::string text = read_file(path, kMostManifest);
    try {
        return parsed(folder, path, text);
    } catch (const json::exception &error) {
        throw Failure(ES_CHANGED, path + ": not a readable manifest (" + error.what() + ")");
    }
}

}  // namespace edgestill
