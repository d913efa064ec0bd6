#include "files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"
#include "sha256.h"

namespace edgestill {

namespace {

// A larger one would stay with the process: the C library keeps it, and an app's memory is its model's.
constexpr size_t kPiece = 64 << 10;

struct Close {
    void operator()(std::FILE *file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

[[noreturn]] void fail(const std::string &path, const char *what) {
    const int code = errno;
    const es_status status = code == ENOENT || code == ENOTDIR ? ES_NOT_FOUND : ES_IO;
    throw Failure(status, path + ": " + what + " (" + std::strerror(code) + ")");
}

File open_file(const std::string &path) {
    File file(std::fopen(path.c_str(), "rb"));
    if (!file) fail(path, "can't be read");
    return file;
}

}  // namespace

bool is_file(const std::string &path) {
    struct stat found {};
    return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

bool is_folder(const std::string &path) {
    struct stat found {};
    return stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}

uint64_t file_size(const std::string &path) {
    struct stat found {};
    if (stat(path.c_str(), &found) != 0) fail(path, "can't be read");
    if (!S_ISREG(found.st_mode)) throw Failure(ES_NOT_FOUND, path + ": not a file");
    return static_cast<uint64_t>(found.st_size);
}

std::string read_file(const std::string &path, uint64_t most) {
    const uint64_t size = file_size(path);
    if (size > most) throw Failure(ES_CHANGED, path + ": larger than " + std::to_string(most) + " bytes");
    const File file = open_file(path);
    std::string bytes(size, '\0');
    if (std::fread(&bytes[0], 1, bytes.size(), file.get()) != bytes.size()) {
        throw Failure(ES_IO, path + ": ends before its size");
    }
    return bytes;
}

std::string sha256_of(const std::string &bytes) {
    Sha256 hash;
    hash.update(reinterpret_cast<const uint8_t *>(bytes.data()), bytes.size());
    return hash.finish();
}

std::string sha256_of_file(const std::string &path) {
    const File file = open_file(path);
    const std::unique_ptr<unsigned char[]> piece(new unsigned char[kPiece]);
    Sha256 hash;
    while (const size_t got = std::fread(piece.get(), 1, kPiece, file.get())) hash.update(piece.get(), got);
    if (std::ferror(file.get())) fail(path, "can't be read");
    return hash.finish();
}

void write_whole(const std::string &path, const std::vector<uint8_t> &bytes) {
    const std::string partial = path + ".partial";
    const int file = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) fail(path, "can't be written");
    size_t done = 0;
    bool good = true;
    while (good && done < bytes.size()) {
        const ssize_t wrote = write(file, bytes.data() + done, bytes.size() - done);
        if (wrote < 0 && errno == EINTR) continue;
        good = wrote > 0;
        done += good ? static_cast<size_t>(wrote) : 0;
    }
    good = good && fsync(file) == 0;
    int code = good ? 0 : errno;
    if (close(file) != 0 && good) {
        good = false;
        code = errno;
    }
    if (good && std::rename(partial.c_str(), path.c_str()) == 0) return;
    if (good) code = errno;
    unlink(partial.c_str());
    errno = code;
    fail(path, "can't be written");
}

}  // namespace edgestill
