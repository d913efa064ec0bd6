// A measurement as edgestill bench's JSON document.
#include <algorithm>
#include <ctime>
#include <numeric>

#include <nlohmann/json.hpp>

#include "environment.h"
#include "failure.h"
#include "figures.h"
#include "files.h"
#include "session.h"

namespace edgestill {

namespace {

using json = nlohmann::ordered_json;

// What edgestill bench cuts its prompt from, so that both measure the same tokens.
const char kPromptText[] =
    "The lighthouse keeper climbed the stairs every evening before dark. He carried a small lamp, a book "
    "about the weather and a cup of tea that was always too hot. From the top he could see the harbour, "
    "the market and the road that led over the hills to the next town. When the fog came in he counted "
    "the seconds between two sounds of the horn, wrote the number down and waited for the ships to answer. ";

constexpr double kWideSpread = 0.10;
constexpr size_t kFewRepetitions = 6;

// Samples of all repetitions, by the names that edgestill bench gives them.
struct Samples {
    std::vector<double> ttft, prefill, answer, gaps, prefill_rate, decode_rate, pss, anonymous, mapped, warmup;
};

// The process's memory now: in all, what is its own, and what is pages of files (the mapped weights).
void add_memory(Samples &samples) {
    const auto add = [](std::vector<double> &to, const char *path, const char *name) {
        const json bytes = kilobytes_of(path, name);
        if (!bytes.is_null()) to.push_back(bytes.get<double>());
    };
    add(samples.pss, "/proc/self/smaps_rollup", "Pss");
    add(samples.anonymous, "/proc/self/status", "RssAnon");
    add(samples.mapped, "/proc/self/status", "RssFile");
}

json memory_figure(const char *name, const std::string &source) {
    const json bytes = kilobytes_of("/proc/self/status", name);
    return bytes.is_null() ? missing_figure("bytes", "this system has no /proc/self/status")
                           : single_figure(bytes.get<double>(), "bytes", source);
}

json peak_pss(const std::vector<double> &pss) {
    if (pss.empty()) return missing_figure("bytes", "this system has no /proc/self/smaps_rollup");
    json peak = single_figure(*std::max_element(pss.begin(), pss.end()), "bytes",
                              "largest PSS of the process, read after load, the warm-up and each repetition");
    peak["n"] = pss.size();
    return peak;
}

json warnings_of(const Samples &samples) {
    json warnings = json::array();
    const size_t n = samples.answer.size();
    std::vector<double> ordered = samples.answer;
    std::sort(ordered.begin(), ordered.end());
    const double spread = (ordered[n * 3 / 4] - ordered[n / 4]) / ordered[n / 2];
    if (spread > kWideSpread) {
        warnings.push_back("answer_seconds is unsteady: interquartile range is " +
                           std::to_string(static_cast<int>(spread * 100)) + "% of the median of " + std::to_string(n));
    }
    if (n < kFewRepetitions) {
        warnings.push_back(std::to_string(n) + " repetitions are too few for 95% intervals of the medians; at least 6 "
                           "are needed");
    }
    return warnings;
}

std::string now_utc() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
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
    const std::string created = now_utc();
    const json before = environment_json();
    Samples samples;
    add_memory(samples);
    for (int32_t run = -1; run < repetitions; ++run) {  // the first is a warm-up
        reset();
        generate(prompt.data(), prompt.size(), generation, nullptr, nullptr);
        add_memory(samples);
        if (run < 0) {
            samples.warmup.push_back(last_.total_seconds);
            continue;
        }
        samples.ttft.push_back(last_.ttft_seconds);
        samples.prefill.push_back(last_.prefill_seconds);
        samples.answer.push_back(last_.total_seconds);
        samples.gaps.insert(samples.gaps.end(), last_.token_seconds.begin(), last_.token_seconds.end());
        samples.prefill_rate.push_back(static_cast<double>(prompt.size()) / last_.prefill_seconds);
        const double decoding = std::accumulate(last_.token_seconds.begin(), last_.token_seconds.end(), 0.0);
        samples.decode_rate.push_back(static_cast<double>(last_.token_seconds.size()) / decoding);
    }
    const std::string each = std::to_string(repetitions) + " repetitions in this process after 1 warm-up";
    const std::string median = "median of " + each;
    const std::string pooled =
        "gaps between tokens pooled over " + std::to_string(repetitions) + " repetitions; the interval takes them as "
        "independent";
    json settings = {{"kv_precision", model_->kv_precision()}};
    if (!model_->repacks()) settings["repack"] = false;
    const json record = {
        {"model", artifact_.empty() ? path_ : path_ + "#" + artifact_},
        {"engine", "llama.cpp"},
        {"threads", model_->threads()},
        {"prompt_tokens", prompt.size()},
        {"new_tokens", new_tokens},
        {"repetitions", repetitions},
        {"load_seconds", single_figure(load_seconds_, "seconds",
                                       "es_open: hashes checked, model loaded; files cached by the system or not as "
                                       "found")},
        {"ttft_seconds", median_figure(samples.ttft, "seconds", median + "; from token ids")},
        {"prefill_tokens_per_second", median_figure(samples.prefill_rate, "tokens/s", median)},
        {"decode_tokens_per_second",
         median_figure(samples.decode_rate, "tokens/s", median + "; after the first token")},
        {"inter_token_seconds", {{"p50", quantile_figure(samples.gaps, 0.5, false, "seconds", pooled)},
                                 {"p90", quantile_figure(samples.gaps, 0.9, true, "seconds", pooled)},
                                 {"p99", quantile_figure(samples.gaps, 0.99, true, "seconds", pooled)}}},
        {"answer_seconds", median_figure(samples.answer, "seconds", median)},
        {"peak_pss_bytes", peak_pss(samples.pss)},
        {"peak_rss_bytes", memory_figure("VmHWM", "the kernel's high-water mark (VmHWM)")},
        {"weights_bytes", single_figure(static_cast<double>(model_->weights_bytes()), "bytes",
                                        "bytes of weights as the engine reports them")},
        {"size_bytes", file_size(model_path_)},
        {"warnings", warnings_of(samples)},
        {"raw", {{"load_seconds", std::vector<double>{load_seconds_}},
                 {"ttft_seconds", samples.ttft},
                 {"prefill_seconds", samples.prefill},
                 {"answer_seconds", samples.answer},
                 {"inter_token_seconds", samples.gaps},
                 {"prefill_tokens_per_second", samples.prefill_rate},
                 {"decode_tokens_per_second", samples.decode_rate},
                 {"pss_bytes", samples.pss},
                 {"anonymous_rss_bytes", samples.anonymous},
                 {"file_rss_bytes", samples.mapped},
                 {"warmup_answer_seconds", samples.warmup}}},
        {"means", {{"ttft_seconds", mean_figure(samples.ttft, "seconds", "mean of " + each)},
                   {"prefill_tokens_per_second", mean_figure(samples.prefill_rate, "tokens/s", "mean of " + each)},
                   {"decode_tokens_per_second", mean_figure(samples.decode_rate, "tokens/s", "mean of " + each)},
                   {"answer_seconds", mean_figure(samples.answer, "seconds", "mean of " + each)}}},
        // As Python hashes them: a JSON list without spaces.
        {"prompt_sha256", sha256_of(json(prompt).dump())},
        {"model_sha256", model_sha256_.empty() ? sha256_of_file(model_path_) : model_sha256_},
        {"engine_build", {{"version", llama_version()}, {"build", llama_print_system_info()}}},
        {"settings", settings},
    };
    const json document = {{"schema", "edgestill.bench/1"},
                           {"environment", before},
                           {"results", json::array({record})},
                           {"failures", json::array()},
                           {"created", created},
                           {"environment_after", environment_json()}};
    return document.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace edgestill
