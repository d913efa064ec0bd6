// The bundle's golden answers, again: does this machine compute what the packer's did?
#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "failure.h"
#include "files.h"
#include "session.h"

namespace edgestill {

namespace {

using json = nlohmann::json;

constexpr uint64_t kMostGolden = 64u << 20;
const char kGolden[] = "golden.jsonl";
constexpr double kMostGap = 0.05;

struct Golden {
    std::vector<Message> messages;  // empty: `text` is the prompt
    std::string text;
    std::vector<int32_t> prompt_ids;
    std::vector<int32_t> token_ids;
    int32_t max_new_tokens = 0;
    bool answered = false;
};

Golden parsed(const std::string &line, const std::string &artifact) {
    const json row = json::parse(line);
    Golden golden;
    const json &prompt = row.at("prompt");
    if (prompt.is_string()) {
        golden.text = prompt.get<std::string>();
    } else {
        for (const json &one : prompt) {
            golden.messages.push_back({one.at("role").get<std::string>(), one.at("content").get<std::string>()});
        }
    }
    golden.prompt_ids = row.at("prompt_ids").get<std::vector<int32_t>>();
    golden.max_new_tokens = row.at("max_new_tokens").get<int32_t>();
    const json &answers = row.at("token_ids");
    if (const auto found = answers.find(artifact); found != answers.end()) {
        golden.token_ids = found->get<std::vector<int32_t>>();
        golden.answered = true;
    }
    return golden;
}

// How far a logit lies below the largest one, as a share of the largest's height over the mean: what rounding of
// another kernel does to two tokens that are nearly as likely is small on that scale.
double gap_of(const float *logits, int32_t vocabulary, int32_t token, int32_t &best) {
    best = 0;
    double sum = 0;
    for (int32_t id = 0; id < vocabulary; ++id) {
        if (logits[id] > logits[best]) best = id;
        sum += logits[id];
    }
    if (best == token) return 0;
    const double height = logits[best] - sum / vocabulary;
    const double gap = logits[best] - static_cast<double>(logits[token]);
    return height > 0 && std::isfinite(gap) ? gap / height : INFINITY;
}

}  // namespace

// Go along a golden answer, whatever this machine would have said, and look at each of its tokens.
Session::Replay Session::replay_of(const std::vector<int32_t> &prompt, const std::vector<int32_t> &golden,
                                   int32_t max_new_tokens, const std::string &where) {
    const auto differs = [&](size_t at, const std::string &how) {
        throw Failure(ES_MISMATCH, where + ": the answer differs at token " + std::to_string(at) + ": " + how);
    };
    for (const std::vector<int32_t> *ids : {&prompt, &golden}) {
        const bool known = std::all_of(ids->begin(), ids->end(),
                                       [&](int32_t id) { return id >= 0 && id < model_->vocab_size(); });
        if (ids->empty() || !known) throw Failure(ES_MISMATCH, where + " has tokens that the model hasn't");
    }
    if (prompt.size() > static_cast<size_t>(model_->context_length())) {
        throw Failure(ES_MISMATCH, where + " doesn't fit the context of " + std::to_string(model_->context_length()));
    }
    const auto limit = static_cast<size_t>(
        std::min(max_new_tokens, model_->context_length() - static_cast<int32_t>(prompt.size()) + 1));
    if (golden.size() > limit) differs(limit, "here it ends by its length");
    for (size_t at = 0; at < golden.size(); ++at) {
        const bool last = at + 1 == golden.size();
        if (model_->ends(golden[at]) && !last) differs(at, std::to_string(golden[at]) + " ends an answer here");
        if (!model_->ends(golden[at]) && last && golden.size() < limit) {
            differs(at, std::to_string(golden[at]) + " doesn't end an answer here");
        }
    }
    Replay replay;
    reset();
    const float *logits = prefill(prompt.data(), prompt.size());
    for (size_t at = 0; at < golden.size(); ++at) {
        if (at != 0) logits = model_->append(&golden[at - 1], 1, [] { return false; });
        int32_t best = 0;
        const double gap = gap_of(logits, model_->vocab_size(), golden[at], best);
        if (gap > kMostGap) {
            differs(at, std::to_string(best) + " not " + std::to_string(golden[at]) + ", by " +
                            std::to_string(gap) + " of its logit's height");
        }
        replay.close += gap > 0;
        replay.largest = std::max(replay.largest, gap);
        if (cancelled_) throw Failure(ES_CANCELLED, "cancelled");
    }
    reset();
    return replay;
}

std::string Session::selftest() {
    if (!manifest_) throw Failure(ES_USAGE, path_ + ": not a bundle, so it has no golden answers");
    manifest_->check(kGolden, true);
    const std::string path = manifest_->folder + "/" + kGolden;
    const std::string text = read_file(path, kMostGolden);
    size_t number = 0;
    size_t tokens = 0;
    size_t close = 0;
    double largest = 0;
    size_t start = 0;
    while (start < text.size()) {
        const size_t end = std::min(text.find('\n', start), text.size());
        ++number;
        const std::string where = artifact_ + ": golden prompt " + std::to_string(number);
        Golden golden;
        try {
            golden = parsed(text.substr(start, end - start), artifact_);
        } catch (const json::exception &error) {
            throw Failure(ES_CHANGED, path + ":" + std::to_string(number) + ": not a golden answer (" + error.what() + ")");
        }
        start = end + 1;
        if (!golden.answered) throw Failure(ES_MISMATCH, where + " has no answer for it");
        std::string said = golden.text;
        bool special = true;
        if (!golden.messages.empty()) {
            said = apply_template(golden.messages);
            special = model_->chat_template().empty();
        }
        if (model_->tokenize(said.data(), said.size(), special) != golden.prompt_ids) {
            throw Failure(ES_MISMATCH, where + " is tokenised differently from when it was packed");
        }
        const Replay replay = replay_of(golden.prompt_ids, golden.token_ids, golden.max_new_tokens, where);
        tokens += golden.token_ids.size();
        close += replay.close;
        largest = std::max(largest, replay.largest);
    }
    if (number == 0) throw Failure(ES_CHANGED, path + ": no golden answers in it");
    const nlohmann::ordered_json value = {
        {"schema", "edgestill.selftest/1"}, {"artifact", artifact_}, {"prompts", number},
        {"tokens", tokens},                 {"close_tokens", close}, {"largest_gap", largest}};
    return value.dump(2);
}

}  // namespace edgestill
