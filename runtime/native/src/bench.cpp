// All samples of a measurement, as edgestill's bench worker has them.
#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "failure.h"
#include "session.h"

namespace edgestill {

namespace {

using json = nlohmann::json;

// What edgestill bench cuts its prompt from, so that both measure the same tokens.
const char kPromptText[] =
    "The lighthouse keeper climbed the stairs every evening before dark. He carried a small lamp, a book "
    "about the weather and a cup of tea that was always too hot. From the top he could see the harbour, "
    "the market and the road that led over the hills to the next town. When the fog came in he counted "
    "the seconds between two sounds of the horn, wrote the number down and waited for the ships to answer. ";

// Bytes of a line of /proc/self/status; null where the system has none.
json status_bytes(const char *key) {
    std::ifstream status("/proc/self/status");
    std::string line;
    const std::string begins = std::string(key) + ":";
    while (std::getline(status, line)) {
        if (line.compare(0, begins.size(), begins) == 0) return std::stoull(line.substr(begins.size())) * 1024;
    }
    return nullptr;
}

}  // namespace

std::vector<int32_t> Session::bench_prompt(int32_t count) const {
    std::string text = kPromptText;
    size_t longest = 0;
    for (;;) {
        std::vector<int32_t> ids = model_->tokenize(text.data(), text.size(), true);
        if (ids.size() > static_cast<size_t>(count)) {
            ids.resize(static_cast<size_t>(count));
            return ids;
        }
        if (ids.size() <= longest) throw Failure(ES_INTERNAL, "the tokenizer cuts texts; a longer prompt can't be made");
        longest = ids.size();
        text += text;
    }
}

std::string Session::bench(int32_t prompt_tokens, int32_t new_tokens, int32_t repetitions) {
    if (prompt_tokens < 1 || new_tokens < 2 || repetitions < 1) {
        throw Failure(ES_USAGE, "bench wants at least 1 prompt token, 2 new tokens and 1 repetition");
    }
    if (static_cast<int64_t>(prompt_tokens) + new_tokens > static_cast<int64_t>(model_->context_length()) + 1) {
        throw Failure(ES_CONTEXT, std::to_string(prompt_tokens) + " tokens and " + std::to_string(new_tokens) +
                                      " new ones don't fit the context of " + std::to_string(model_->context_length()));
    }
    const std::vector<int32_t> prompt = bench_prompt(prompt_tokens);
    es_generation generation{};
    generation.size = sizeof generation;
    generation.max_new_tokens = new_tokens;
    generation.ignore_eos = 1;
    json samples = json::array();
    for (int32_t run = -1; run < repetitions; ++run) {  // the first is a warm-up
        reset();
        generate(prompt.data(), prompt.size(), generation, nullptr, nullptr);
        if (run < 0) continue;
        samples.push_back({{"ttft_seconds", last_.ttft_seconds},
                           {"prefill_seconds", last_.prefill_seconds},
                           {"answer_seconds", last_.total_seconds},
                           {"inter_token_seconds", last_.token_seconds}});
    }
    const json value = {
        {"schema", "edgestill.native-bench/1"},
        {"model", model_->description()},
        {"artifact", artifact_.empty() ? json() : json(artifact_)},
        {"engine", std::string("llama.cpp ") + llama_version()},
        {"build", llama_print_system_info()},
        {"threads", model_->threads()},
        {"context_length", model_->context_length()},
        {"kv_precision", model_->kv_precision()},
        {"weights_bytes", model_->weights_bytes()},
        {"load_seconds", load_seconds_},
        {"prompt_tokens", prompt_tokens},
        {"new_tokens", new_tokens},
        {"peak_rss_bytes", status_bytes("VmHWM")},
        {"anonymous_bytes", status_bytes("RssAnon")},
        {"file_bytes", status_bytes("RssFile")},
        {"repetitions", samples},
    };
    return value.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace edgestill
