// The bundle's golden answers, again: does this machine compute what the packer's did?
#include <algorithm>

#include <nlohmann/json.hpp>

#include "failure.h"
#include "files.h"
#include "session.h"

namespace edgestill {

namespace {

using json = nlohmann::json;

constexpr uint64_t kMostGolden = 64u << 20;
const char kGolden[] = "golden.jsonl";

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

std::string few(const std::vector<int32_t> &ids, size_t from) {
    std::string text = "[";
    for (size_t i = from; i < std::min(ids.size(), from + 3); ++i) {
        text += (i == from ? "" : ", ") + std::to_string(ids[i]);
    }
    return text + "]";
}

}  // namespace

std::string Session::selftest() {
    if (!manifest_) throw Failure(ES_USAGE, path_ + ": not a bundle, so it has no golden answers");
    manifest_->check(kGolden, true);
    const std::string path = manifest_->folder + "/" + kGolden;
    const std::string text = read_file(path, kMostGolden);
    size_t number = 0;
    size_t tokens = 0;
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
        reset();
        es_generation generation{};
        generation.size = sizeof generation;
        generation.max_new_tokens = golden.max_new_tokens;
        generate(golden.prompt_ids.data(), golden.prompt_ids.size(), generation, nullptr, nullptr);
        tokens += answer_.size();
        if (answer_ == golden.token_ids) continue;
        const size_t most = std::min(answer_.size(), golden.token_ids.size());
        size_t at = 0;
        while (at < most && answer_[at] == golden.token_ids[at]) ++at;
        throw Failure(ES_MISMATCH, where + ": the answer differs at token " + std::to_string(at) + ": " +
                                       few(answer_, at) + " not " + few(golden.token_ids, at));
    }
    if (number == 0) throw Failure(ES_CHANGED, path + ": no golden answers in it");
    const json value = {
        {"schema", "edgestill.selftest/1"}, {"artifact", artifact_}, {"prompts", number}, {"tokens", tokens}};
    return value.dump(2);
}

}  // namespace edgestill
