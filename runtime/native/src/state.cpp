// The sequence in the KV cache as a file: which model it belongs to, its token ids, llama.cpp's state, a hash of all.
#include <cstring>

#include "failure.h"
#include "files.h"
#include "session.h"

namespace edgestill {

namespace {

const char kMagic[] = "edgestill.state/1\n";
constexpr size_t kMagicBytes = sizeof kMagic - 1;
constexpr size_t kHash = 64;
constexpr uint64_t kMostState = uint64_t{1} << 40;

void put(std::vector<uint8_t> &bytes, const void *data, size_t size) {
    const auto *from = static_cast<const uint8_t *>(data);
    bytes.insert(bytes.end(), from, from + size);
}

void put_text(std::vector<uint8_t> &bytes, const std::string &text) {
    const auto size = static_cast<uint32_t>(text.size());
    put(bytes, &size, sizeof size);
    put(bytes, text.data(), text.size());
}

class Reader {
public:
    Reader(const std::string &path, const std::string &bytes, size_t at) : path_(path), bytes_(bytes), at_(at) {}

    uint32_t number() {
        uint32_t value = 0;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }

    std::string text() {
        const uint32_t size = number();
        return std::string(take(size), size);
    }

    const char *take(size_t size) {
        if (size > bytes_.size() - at_) throw Failure(ES_CHANGED, path_ + ": not a whole state");
        at_ += size;
        return bytes_.data() + (at_ - size);
    }

    size_t left() const { return bytes_.size() - at_; }

private:
    const std::string &path_;
    const std::string &bytes_;
    size_t at_;
};

// What a state depends on besides the model's bytes.
std::string layout(Model &model) {
    return std::string(llama_version()) + ", " + model.kv_precision() + ", " + std::to_string(model.context_length());
}

}  // namespace

void Session::save_state(const std::string &path) const {
    std::vector<uint8_t> body;
    put_text(body, model_sha256_.empty() ? path_ : model_sha256_);
    put_text(body, layout(*model_));
    const auto count = static_cast<uint32_t>(sequence_.size());
    put(body, &count, sizeof count);
    put(body, sequence_.data(), sequence_.size() * sizeof(int32_t));
    const std::vector<uint8_t> state = model_->save_state();
    put(body, state.data(), state.size());
    const std::string hash = sha256_of(std::string(body.begin(), body.end()));
    std::vector<uint8_t> bytes;
    bytes.reserve(kMagicBytes + kHash + body.size());
    put(bytes, kMagic, kMagicBytes);
    put(bytes, hash.data(), kHash);
    bytes.insert(bytes.end(), body.begin(), body.end());
    write_whole(path, bytes);
}

void Session::load_state(const std::string &path) {
    const std::string bytes = read_file(path, kMostState);
    Reader reader(path, bytes, 0);
    if (std::string(reader.take(kMagicBytes), kMagicBytes) != kMagic) {
        throw Failure(ES_CHANGED, path + ": not a state of this library");
    }
    const std::string hash(reader.take(kHash), kHash);
    if (sha256_of(bytes.substr(kMagicBytes + kHash)) != hash) {
        throw Failure(ES_CHANGED, path + ": its bytes changed (sha256 differs from its own)");
    }
    if (reader.text() != (model_sha256_.empty() ? path_ : model_sha256_)) {
        throw Failure(ES_CHANGED, path + ": a state of another model");
    }
    if (const std::string found = reader.text(); found != layout(*model_)) {
        throw Failure(ES_CHANGED, path + ": a state of another engine or context (" + found + ")");
    }
    const uint32_t count = reader.number();
    std::vector<int32_t> ids(count);
    std::memcpy(ids.data(), reader.take(count * sizeof(int32_t)), count * sizeof(int32_t));
    sequence_.clear();
    const size_t size = reader.left();
    model_->restore_state(reinterpret_cast<const uint8_t *>(reader.take(size)), size, static_cast<int32_t>(count));
    sequence_ = std::move(ids);
}

}  // namespace edgestill
