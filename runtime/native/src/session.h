// A session: an opened model that answers prompts and keeps the KV cache between them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "chat_template.h"
#include "edgestill.h"
#include "model.h"

namespace edgestill {

struct Statistics {
    int32_t prompt_tokens = 0;
    int32_t reused_tokens = 0;
    double ttft_seconds = 0;
    double prefill_seconds = 0;
    double total_seconds = 0;
    std::vector<double> token_seconds;
    std::string finish_reason;
};

class Session {
public:
    // Throws Failure.
    Session(const std::string &path, const std::string &artifact, const es_options &options);

    Model &model() { return *model_; }
    std::string apply_template(const std::vector<Message> &messages) const;
    void generate(const int32_t *ids, size_t count, const es_generation &generation, es_on_token on_token, void *user);
    const std::vector<int32_t> &answer() const { return answer_; }
    const std::string &text() const { return text_; }
    const Statistics &last() const { return last_; }
    void cancel() { cancelled_ = true; }

    // A new answer, bench or self-test is asked for: what was cancelled before isn't it.
    void begin() { cancelled_ = false; }
    void reset();
    void save_state(const std::string &path) const;
    void load_state(const std::string &path);

    // JSON documents.
    std::string statistics() const;
    std::string bench(int32_t prompt_tokens, int32_t new_tokens, int32_t repetitions);
    // Throws Failure (mismatch) that names the prompt and the token.
    std::string selftest();

private:
    struct Replay {
        size_t close = 0;    // tokens that aren't this machine's, but nearly
        double largest = 0;  // gap of one
    };

    void read_ends(const std::string &folder);
    int32_t shared(const int32_t *ids, size_t count) const;
    const float *prefill(const int32_t *ids, size_t count);
    std::vector<int32_t> bench_prompt(int32_t count) const;
    Replay replay_of(const std::vector<int32_t> &prompt, const std::vector<int32_t> &golden, int32_t max_new_tokens,
                     const std::string &where);

    std::string path_;
    std::unique_ptr<Manifest> manifest_;  // none for a bare file
    std::string artifact_;
    std::string model_path_;
    std::string model_sha256_;  // empty for a bare file
    double load_seconds_ = 0;
    std::unique_ptr<Model> model_;
    std::vector<int32_t> sequence_;  // the ids in the KV cache
    std::vector<int32_t> answer_;
    std::string text_;
    Statistics last_;
    std::atomic<bool> cancelled_{false};
};

}  // namespace edgestill
