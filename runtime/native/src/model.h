// A GGUF model in llama.cpp with one sequence: tokens in, logits out; and its tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "edgestill.h"
#include "ggml-cpu.h"
#include "llama.h"

namespace edgestill {

class Model {
public:
    // Throws Failure with llama.cpp's own reason.
    Model(const std::string &path, const es_options &options);
    ~Model();
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    int32_t context_length() const { return context_length_; }
    int32_t vocab_size() const { return vocab_size_; }
    int32_t threads() const { return threads_; }
    const char *kv_precision() const;
    bool repacks() const { return repack_; }
    uint64_t weights_bytes() const { return llama_model_size(model_.get()); }
    std::string description() const;
    std::string chat_template() const;
    std::string bos_token() const;
    std::string eos_token() const;

    // Compute one or more tokens after the sequence and return the logits [vocab] after the last. `cancelled` is asked
    // between pieces of a prompt; true ends it by Failure. Throws Failure; the sequence is empty then.
    const float *append(const int32_t *ids, size_t count, const std::function<bool()> &cancelled);

    int32_t position() const { return position_; }

    // Keep so many tokens of the sequence, or none where that isn't possible.
    void rewind(int32_t position);

    std::vector<int32_t> tokenize(const char *text, size_t length, bool add_special) const;

    // The bytes that a token adds to a text (none for a special one).
    const std::string &token_bytes(int32_t id);

    bool ends(int32_t id) const { return ends_.count(id) != 0; }
    void also_ends(int32_t id) { ends_.insert(id); }
    bool strips_first_space() const { return strips_first_space_; }

    std::vector<uint8_t> save_state() const;
    void restore_state(const uint8_t *state, size_t size, int32_t tokens);

private:
    struct FreeModel {
        void operator()(llama_model *model) const { llama_model_free(model); }
    };
    struct FreeContext {
        void operator()(llama_context *context) const { llama_free(context); }
    };
    struct FreePool {
        void operator()(ggml_threadpool *pool) const { ggml_threadpool_free(pool); }
    };

    void open_context(const es_options &options, bool all_float32);
    void read_vocabulary();
    std::string metadata(const char *key) const;
    void decode(const int32_t *ids, int32_t count, bool wanted);

    std::string path_;
    int32_t threads_ = 1;
    int32_t context_length_ = 0;
    int32_t vocab_size_ = 0;
    int32_t piece_ = 0;
    int32_t position_ = 0;
    ggml_type kv_type_ = GGML_TYPE_F16;
    bool repack_ = true;
    bool strips_first_space_ = false;
    const llama_vocab *vocab_ = nullptr;
    std::unordered_set<int32_t> ends_;
    std::unordered_map<int32_t, std::string> pieces_;  // of the tokens that were written
    std::vector<int8_t> unwanted_;
    // Freed in the order of the last one first: the context, its threads, the model.
    std::unique_ptr<llama_model, FreeModel> model_;
    std::unique_ptr<ggml_threadpool, FreePool> pool_;
    std::unique_ptr<llama_context, FreeContext> context_;
};

}  // namespace edgestill
