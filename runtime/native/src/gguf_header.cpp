#include "gguf_header.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <set>

#include "failure.h"
#include "files.h"
#include "ggml.h"

namespace edgestill {

namespace {

constexpr uint64_t kMostEntries = 1u << 20;
constexpr uint64_t kMostLength = 1u << 30;
constexpr uint32_t kMostDimensions = 4;
constexpr uint32_t kString = 8, kArray = 9, kUint32 = 4, kBool = 7;
constexpr uint64_t kAlignment = 32;

// Layout: ggml's docs/gguf.md, versions 2 and 3, little-endian.
class Reader {
public:
    explicit Reader(const std::string &path) : path_(path), size_(file_size(path)) {
        file_.reset(std::fopen(path.c_str(), "rb"));
        if (!file_) throw Failure(ES_IO, path + ": can't be read");
    }

    [[noreturn]] void damaged(const std::string &what) const {
        throw Failure(ES_CHANGED, path_ + ": " + what + "; copy or export it again");
    }

    template <typename Number>
    Number number() {
        Number value{};
        bytes(&value, sizeof value);
        return value;
    }

    std::string text() {
        const uint64_t length = number<uint64_t>();
        if (length > kMostLength || length > size_ - at_) damaged("the file ends inside its header");
        std::string found(length, '\0');
        if (length != 0) bytes(&found[0], length);
        return found;
    }

    void skip(uint64_t length) {
        if (length > size_ - at_) damaged("the file ends inside its header");
        at_ += length;
        if (fseeko(file_.get(), static_cast<off_t>(at_), SEEK_SET) != 0) damaged("can't be read");
    }

    uint64_t at() const { return at_; }
    uint64_t size() const { return size_; }

private:
    struct Close {
        void operator()(std::FILE *file) const { std::fclose(file); }
    };

    void bytes(void *to, uint64_t length) {
        if (length > size_ - at_ || std::fread(to, 1, length, file_.get()) != length) {
            damaged("the file ends inside its header");
        }
        at_ += length;
    }

    std::string path_;
    uint64_t size_;
    uint64_t at_ = 0;
    std::unique_ptr<std::FILE, Close> file_;
};

uint64_t bytes_of(const Reader &reader, uint32_t type) {
    static const uint64_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type >= sizeof sizes / sizeof *sizes || sizes[type] == 0) {
        reader.damaged("metadata type " + std::to_string(type) + " is unknown: the header is damaged");
    }
    return sizes[type];
}

void skip_bools(Reader &reader, uint64_t count) {
    // Any other byte than 0 and 1 in a bool is undefined where llama.cpp reads it.
    for (uint64_t i = 0; i < count; ++i) {
        if (reader.number<uint8_t>() > 1) reader.damaged("a bool is neither 0 nor 1: the header is damaged");
    }
}

void skip_value(Reader &reader, uint32_t type) {
    if (type == kString) {
        reader.text();
    } else if (type == kBool) {
        skip_bools(reader, 1);
    } else if (type != kArray) {
        reader.skip(bytes_of(reader, type));
    } else {
        const uint32_t item = reader.number<uint32_t>();
        const uint64_t count = reader.number<uint64_t>();
        if (item == kString) {
            if (count > reader.size() / sizeof(uint64_t)) reader.damaged("the file ends inside its header");
            for (uint64_t i = 0; i < count; ++i) reader.text();
        } else if (item == kBool) {
            skip_bools(reader, count);
        } else {
            const uint64_t each = bytes_of(reader, item);
            if (count > reader.size() / each) reader.damaged("the file ends inside its header");
            reader.skip(count * each);
        }
    }
}

// Bytes of a tensor of the shape that follows in the file; 0 of a type that only llama.cpp may know.
uint64_t read_tensor(Reader &reader, bool &all_float32) {
    const uint32_t dimensions = reader.number<uint32_t>();
    if (dimensions == 0 || dimensions > kMostDimensions) {
        reader.damaged("a tensor has " + std::to_string(dimensions) + " dimensions: the header is damaged");
    }
    uint64_t shape[kMostDimensions] = {1, 1, 1, 1};
    const uint64_t most = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    uint64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
        shape[i] = reader.number<uint64_t>();
        if (shape[i] == 0 || shape[i] > most / elements) reader.damaged("a tensor's shape is damaged");
        elements *= shape[i];
    }
    const uint32_t type = reader.number<uint32_t>();
    const uint64_t offset = reader.number<uint64_t>();
    all_float32 = all_float32 && type == GGML_TYPE_F32;
    if (type >= GGML_TYPE_COUNT) reader.damaged("tensor type " + std::to_string(type) + " is unknown");
    const auto known = static_cast<ggml_type>(type);
    const int64_t block = ggml_blck_size(known);
    const uint64_t block_bytes = ggml_type_size(known);
    if (block <= 0 || block_bytes == 0) reader.damaged("tensor type " + std::to_string(type) + " is unknown");
    if (shape[0] % static_cast<uint64_t>(block) != 0) reader.damaged("a tensor's rows aren't whole blocks");
    const uint64_t blocks = elements / static_cast<uint64_t>(block);
    if (blocks > most / block_bytes || offset > most - blocks * block_bytes) {
        reader.damaged("a tensor's shape is damaged");
    }
    return offset + blocks * block_bytes;
}

}  // namespace

GgufHeader read_gguf_header(const std::string &path) {
    Reader reader(path);
    char magic[4];
    const uint32_t begins = reader.size() < sizeof magic ? 0 : reader.number<uint32_t>();
    std::memcpy(magic, &begins, sizeof magic);
    if (std::memcmp(magic, "GGUF", sizeof magic) != 0) {
        throw Failure(ES_CHANGED, path + ": not a GGUF file (it doesn't begin with GGUF)");
    }
    const uint32_t version = reader.number<uint32_t>();
    if (version != 2 && version != 3) reader.damaged("GGUF version " + std::to_string(version) + " is not 2 or 3");
    const uint64_t tensors = reader.number<uint64_t>();
    const uint64_t entries = reader.number<uint64_t>();
    if (tensors > kMostEntries || entries > kMostEntries) reader.damaged("the header is damaged");
    uint64_t alignment = kAlignment;
    std::set<std::string> keys;
    for (uint64_t i = 0; i < entries; ++i) {
        const std::string key = reader.text();
        if (!keys.insert(key).second) reader.damaged("metadata key '" + key + "' is there twice");
        const uint32_t type = reader.number<uint32_t>();
        if (key == "general.alignment") {
            if (type != kUint32) reader.damaged("its alignment is no number");
            alignment = reader.number<uint32_t>();
        } else {
            skip_value(reader, type);
        }
    }
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
        reader.damaged("alignment " + std::to_string(alignment) + " is not a power of two");
    }
    GgufHeader header;
    header.all_float32 = tensors != 0;
    uint64_t end = 0;
    for (uint64_t i = 0; i < tensors; ++i) {
        reader.text();
        const uint64_t ends = read_tensor(reader, header.all_float32);
        end = ends > end ? ends : end;
    }
    const uint64_t start = (reader.at() + alignment - 1) / alignment * alignment;
    if (start > reader.size() || end > reader.size() - start) {
        reader.damaged("truncated: " + std::to_string(reader.size()) + " bytes, and its tensors need " +
                       std::to_string(start + end));
    }
    return header;
}

}  // namespace edgestill
