#include "model.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "failure.h"
#include "files.h"
#include "gguf_header.h"
#include "loading.h"

namespace edgestill {

namespace {

// As in Python's engine (edgestill.runtime.engines.llama_cpp and llama_attention), so that both compute the same bits.
constexpr int32_t kMostPiece = 512;
constexpr int32_t kDefaultContext = 4096;
constexpr int32_t kShortContext = 256;
constexpr int64_t kMostScores = 1 << 23;
constexpr int32_t kLongestPiece = 256;
constexpr int32_t kLeastPiece = 32;
constexpr int64_t kMostOutputFloats = 1 << 22;
constexpr uint64_t kBytesPerThread = 4u << 20;

int32_t usual_threads(uint64_t bytes) {
    const uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
    return static_cast<int32_t>(std::max<uint64_t>(1, std::min(cores, (bytes + kBytesPerThread - 1) / kBytesPerThread)));
}

ggml_type kv_type(const es_options &options, bool all_float32) {
    if (options.kv_precision == nullptr) return all_float32 ? GGML_TYPE_F32 : GGML_TYPE_F16;
    for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_F32, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
        if (std::strcmp(ggml_type_name(type), options.kv_precision) == 0) return type;
    }
    throw Failure(ES_USAGE, std::string("kv_precision '") + options.kv_precision + "' is not f16, f32, q8_0 or q4_0");
}

bool flash_attention(ggml_type type, int32_t context) {
    if (type == GGML_TYPE_F32) return false;
    if (type != GGML_TYPE_F16) return true;
#if defined(__x86_64__) || defined(__i386__)
    return context <= kShortContext;
#else
    (void)context;
    return true;
#endif
}

int32_t longest_piece(int64_t heads, int32_t context) {
    const int64_t fits = kMostScores / (heads * context) / kLeastPiece * kLeastPiece;
    return static_cast<int32_t>(std::max<int64_t>(kLeastPiece, std::min<int64_t>(kLongestPiece, fits)));
}

}  // namespace

Model::Model(const std::string &path, const es_options &options) : path_(path) {
    if (options.threads < 0 || options.context_length < 0) {
        throw Failure(ES_USAGE, "threads and context_length are at least 1, or 0 for the default");
    }
    const GgufHeader header = read_gguf_header(path);
    const Loading quiet_and_whole;
    start_llama();
    llama_model_params settings = llama_model_default_params();
    settings.n_gpu_layers = 0;
    if (options.no_mmap != 0) settings.load_mode = LLAMA_LOAD_MODE_NONE;
    settings.use_extra_bufts = options.no_repack == 0;
    repack_ = settings.use_extra_bufts;
    try {
        model_.reset(llama_model_load_from_file(path.c_str(), settings));
    } catch (const std::runtime_error &error) {
        throw Failure(ES_CHANGED, path + ": llama.cpp can't load it (" + error.what() + ")");
    }
    if (!model_) throw Failure(ES_CHANGED, path + ": llama.cpp can't load it (" + reason() + ")");
    vocab_ = llama_model_get_vocab(model_.get());
    vocab_size_ = llama_vocab_n_tokens(vocab_);
    if (vocab_size_ < 1) throw Failure(ES_CHANGED, path + ": it has no tokenizer");
    threads_ = options.threads != 0 ? options.threads : usual_threads(file_size(path));
    const int32_t trained = llama_model_n_ctx_train(model_.get());
    const int32_t asked = options.context_length != 0 ? options.context_length : kDefaultContext;
    context_length_ = std::min(trained > 0 ? trained : kDefaultContext, asked);
    open_context(options, header.all_float32);
    read_vocabulary();
#ifdef __GLIBC__
    // The file's metadata was read into thousands of strings, which are freed and would stay with the process.
    malloc_trim(0);
#endif
}

Model::~Model() {
    const Loading quiet;  // it logs while it frees, too
    context_.reset();
    pool_.reset();
    model_.reset();
}

void Model::open_context(const es_options &options, bool all_float32) {
    kv_type_ = kv_type(options, all_float32);
    const bool flash = flash_attention(kv_type_, context_length_);
    piece_ = std::min(kMostPiece, context_length_);
    if (!flash) piece_ = std::min(piece_, longest_piece(llama_model_n_head(model_.get()), context_length_));
    llama_context_params settings = llama_context_default_params();
    settings.n_ctx = static_cast<uint32_t>(context_length_);
    settings.n_batch = settings.n_ubatch = static_cast<uint32_t>(piece_);
    settings.n_outputs_max = static_cast<uint32_t>(
        std::max<int64_t>(kLeastPiece, std::min<int64_t>(kMostPiece, kMostOutputFloats / vocab_size_)));
    settings.n_threads = settings.n_threads_batch = threads_;
    settings.no_perf = true;
    settings.type_k = settings.type_v = kv_type_;
    settings.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_.reset(llama_init_from_model(model_.get(), settings));
    if (!context_ && ggml_is_quantized(kv_type_)) {
        throw Failure(ES_USAGE, path_ + ": llama.cpp can't make a KV cache in " + ggml_type_name(kv_type_) + " (" +
                                    reason() + "); use f16");
    }
    if (!context_) {
        throw Failure(ES_MEMORY, path_ + ": llama.cpp can't make a context of " + std::to_string(context_length_) +
                                     " tokens (" + reason() + ")");
    }
    if (threads_ > 1) {
        ggml_threadpool_params threads = ggml_threadpool_params_default(threads_);
        pool_.reset(ggml_threadpool_new(&threads));
        if (pool_) llama_attach_threadpool(context_.get(), pool_.get(), nullptr);
    }
    unwanted_.assign(static_cast<size_t>(piece_), 0);
}

void Model::read_vocabulary() {
    const enum llama_vocab_type type = llama_vocab_type(vocab_);
    const std::string prefixed = metadata("tokenizer.ggml.add_space_prefix");
    strips_first_space_ = (type == LLAMA_VOCAB_TYPE_SPM && prefixed != "false") ||
                          (type == LLAMA_VOCAB_TYPE_UGM && prefixed == "true");
    const bool fallback = type == LLAMA_VOCAB_TYPE_UGM && metadata("edgestill.byte_fallback") == "true";
    for (int32_t id = 0; id < vocab_size_; ++id) {
        if (llama_vocab_is_eog(vocab_, id)) ends_.insert(id);
        unsigned byte = 0;
        int length = 0;
        const char *text = fallback ? llama_vocab_get_text(vocab_, id) : "";
        if (std::strlen(text) == 6 && std::sscanf(text, "<0x%2X>%n", &byte, &length) == 1 && length == 6) {
            pieces_[id] = std::string(1, static_cast<char>(byte));
        }
    }
    const std::string more = metadata("edgestill.eos_token_ids");
    for (size_t start = 0; start < more.size();) {
        const size_t end = std::min(more.find(',', start), more.size());
        const std::string number = more.substr(start, end - start);
        if (!number.empty() && number.find_first_not_of("0123456789") == std::string::npos && number.size() < 10) {
            ends_.insert(std::atoi(number.c_str()));
        }
        start = end + 1;
    }
}

const char *Model::kv_precision() const { return ggml_type_name(kv_type_); }

std::string Model::metadata(const char *key) const {
    char text[4096];
    const int32_t length = llama_model_meta_val_str(model_.get(), key, text, sizeof text);
    return length >= 0 ? std::string(text) : "";
}

std::string Model::description() const {
    char text[256];
    llama_model_desc(model_.get(), text, sizeof text);
    return text;
}

std::string Model::chat_template() const {
    const char *text = llama_model_chat_template(model_.get(), nullptr);
    return text == nullptr ? "" : text;
}

std::string Model::bos_token() const {
    const llama_token id = llama_vocab_bos(vocab_);
    return id < 0 ? "" : llama_vocab_get_text(vocab_, id);
}

std::string Model::eos_token() const {
    const llama_token id = llama_vocab_eos(vocab_);
    return id < 0 ? "" : llama_vocab_get_text(vocab_, id);
}

const float *Model::append(const int32_t *ids, size_t count, const std::function<bool()> &cancelled) {
    for (size_t start = 0; start < count; start += static_cast<size_t>(piece_)) {
        if (start != 0 && cancelled()) {
            rewind(0);
            throw Failure(ES_CANCELLED, "cancelled while the prompt was read");
        }
        const size_t size = std::min(count - start, static_cast<size_t>(piece_));
        decode(ids + start, static_cast<int32_t>(size), start + size == count);
    }
    const float *logits = llama_get_logits_ith(context_.get(), -1);
    if (logits == nullptr) throw Failure(ES_INTERNAL, path_ + ": llama.cpp has no logits (" + reason() + ")");
    return logits;
}

void Model::decode(const int32_t *ids, int32_t count, bool wanted) {
    forget_reason();
    // llama.cpp takes the ids by a pointer to what it doesn't change.
    llama_batch batch = llama_batch_get_one(const_cast<int32_t *>(ids), count);
    if (!wanted) batch.logits = unwanted_.data();
    const int32_t code = llama_decode(context_.get(), batch);
    if (code == 0) {
        position_ += count;
        return;
    }
    rewind(0);
    if (code == 1) throw Failure(ES_CONTEXT, path_ + ": no room left in llama.cpp's KV cache; shorten the prompt");
    throw Failure(ES_INTERNAL, path_ + ": llama.cpp stopped with code " + std::to_string(code) + " (" + reason() + ")");
}

void Model::rewind(int32_t position) {
    if (position >= position_) return;
    const llama_memory_t memory = llama_get_memory(context_.get());
    if (position <= 0 || !llama_memory_seq_rm(memory, 0, position, -1)) {
        llama_memory_clear(memory, false);
        position = 0;
    }
    position_ = position;
}

std::vector<int32_t> Model::tokenize(const char *text, size_t length, bool add_special) const {
    if (length > static_cast<size_t>(INT32_MAX) / 2) throw Failure(ES_USAGE, "a text is longer than a gigabyte");
    std::vector<int32_t> ids(length + 8);
    for (int attempt = 0; attempt < 2; ++attempt) {
        const int32_t count = llama_tokenize(vocab_, text, static_cast<int32_t>(length), ids.data(),
                                             static_cast<int32_t>(ids.size()), add_special, true);
        if (count >= 0) {
            ids.resize(static_cast<size_t>(count));
            return ids;
        }
        ids.resize(static_cast<size_t>(-static_cast<int64_t>(count)));
    }
    throw Failure(ES_INTERNAL, "llama.cpp can't tokenize a text of " + std::to_string(length) + " bytes");
}

const std::string &Model::token_bytes(int32_t id) {
    const auto [at, unknown] = pieces_.try_emplace(id);
    std::string &piece = at->second;
    if (unknown) {
        piece.resize(64);
        int32_t size = llama_token_to_piece(vocab_, id, &piece[0], static_cast<int32_t>(piece.size()), 0, false);
        if (size < 0) {
            piece.resize(static_cast<size_t>(-size));
            size = llama_token_to_piece(vocab_, id, &piece[0], -size, 0, false);
        }
        piece.resize(static_cast<size_t>(std::max(size, 0)));
    }
    return piece;
}

std::vector<uint8_t> Model::save_state() const {
    std::vector<uint8_t> state(llama_state_seq_get_size(context_.get(), 0));
    if (llama_state_seq_get_data(context_.get(), state.data(), state.size(), 0) != state.size()) {
        throw Failure(ES_INTERNAL, path_ + ": llama.cpp can't write its state (" + reason() + ")");
    }
    return state;
}

void Model::restore_state(const uint8_t *state, size_t size, int32_t tokens) {
    rewind(0);
    forget_reason();
    const size_t taken = llama_state_seq_set_data(context_.get(), state, size, 0);
    position_ = llama_memory_seq_pos_max(llama_get_memory(context_.get()), 0) + 1;
    if (taken == size && position_ == tokens) return;
    llama_memory_clear(llama_get_memory(context_.get()), false);
    position_ = 0;
    throw Failure(ES_CHANGED, "llama.cpp refuses the state (" + reason() + ")");
}

}  // namespace edgestill
