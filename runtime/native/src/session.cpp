#include "session.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <nlohmann/json.hpp>

#include "environment.h"
#include "failure.h"
#include "files.h"
#include "sampler.h"
#include "utf8.h"

namespace edgestill {

namespace {

using Clock = std::chrono::steady_clock;
using json = nlohmann::json;

constexpr uint64_t kMostConfig = 1 << 20;
constexpr int32_t kUsualTokens = 256;

// Null for none.
nlohmann::ordered_json named(const std::string &text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

double since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

// Holds back what may begin a stop string, as edgestill.runtime.stop_strings does.
class StopStrings {
public:
    StopStrings(const char *const *stops, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            if (stops[i] == nullptr || *stops[i] == '\0') {
                throw Failure(ES_USAGE, "stop: an empty string would end every answer; leave it out");
            }
            stops_.emplace_back(stops[i]);
        }
    }

    bool found() const { return found_; }

    std::string push(const std::string &text) {
        held_ += text;
        size_t at = std::string::npos;
        for (const std::string &stop : stops_) at = std::min(at, held_.find(stop));
        size_t free = at;
        if (at != std::string::npos) {
            found_ = true;
        } else {
            free = held_.size();
            for (const std::string &stop : stops_) free = std::min(free, held_.size() - overlap(stop));
        }
        const std::string given = held_.substr(0, free);
        held_.erase(0, found_ ? held_.size() : free);
        return given;
    }

    std::string finish() { return std::move(held_); }

private:
    size_t overlap(const std::string &stop) const {
        for (size_t size = std::min(stop.size() - 1, held_.size()); size > 0; --size) {
            if (held_.compare(held_.size() - size, size, stop, 0, size) == 0) return size;
        }
        return 0;
    }

    std::vector<std::string> stops_;
    std::string held_;
    bool found_ = false;
};

std::string folder_of(const std::string &path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

}  // namespace

Session::Session(const std::string &path, const std::string &artifact, const es_options &options) : path_(path) {
    const Clock::time_point begun = Clock::now();
    std::string model = path;
    if (is_folder(path)) {
        manifest_ = std::make_unique<Manifest>(read_manifest(path));
        const BundleArtifact &chosen = manifest_->artifact(artifact);
        artifact_ = chosen.name;
        const std::string folder = "artifacts/" + chosen.name;
        manifest_->check(folder, options.no_verify == 0);
        const auto listed = manifest_->files.find(folder + "/" + chosen.entry);
        if (listed == manifest_->files.end()) {
            throw Failure(ES_CHANGED, path + "/manifest.json: '" + chosen.entry + "' isn't among its files");
        }
        model_sha256_ = listed->second.sha256;
        model = path + "/" + folder + "/" + chosen.entry;
    } else if (!artifact.empty()) {
        throw Failure(ES_USAGE, path + ": not a bundle's folder, so it has no artifact '" + artifact + "'");
    }
    model_path_ = model;
    model_ = std::make_unique<Model>(model, options);
    read_ends(folder_of(model));
    load_seconds_ = since(begun);
}

void Session::read_ends(const std::string &folder) {
    for (const char *name : {"generation_config.json", "config.json"}) {
        const std::string path = folder + "/" + name;
        if (!is_file(path)) continue;
        const json value = json::parse(read_file(path, kMostConfig), nullptr, false);
        if (!value.is_object()) throw Failure(ES_CHANGED, path + ": not a readable configuration");
        const auto found = value.find("eos_token_id");
        if (found == value.end() || found->is_null()) continue;
        const json ids = found->is_array() ? *found : json::array({*found});
        bool any = false;
        for (const json &id : ids) {
            if (!id.is_number_integer()) continue;
            model_->also_ends(id.get<int32_t>());
            any = true;
        }
        if (any) return;
    }
}

std::string Session::apply_template(const std::vector<Message> &messages) const {
    return render(model_->chat_template(), messages, model_->bos_token(), model_->eos_token());
}

void Session::reset() {
    sequence_.clear();
    model_->rewind(0);
}

int32_t Session::shared(const int32_t *ids, size_t count) const {
    const size_t most = std::min(sequence_.size(), count);
    size_t same = 0;
    while (same < most && sequence_[same] == ids[same]) ++same;
    return static_cast<int32_t>(same);
}

const float *Session::prefill(const int32_t *ids, size_t count) {
    const int32_t common = shared(ids, count - 1);
    // Cleared first: what fails half-way leaves nothing that could be reused wrongly.
    sequence_.clear();
    model_->rewind(common);
    const auto kept = static_cast<size_t>(model_->position());
    last_.reused_tokens = static_cast<int32_t>(kept);
    const float *logits = model_->append(ids + kept, count - kept, [this] { return cancelled_.load(); });
    sequence_.assign(ids, ids + count);
    return logits;
}

void Session::generate(const int32_t *ids, size_t count, const es_generation &generation, es_on_token on_token,
                       void *user) {
    const Clock::time_point begun = Clock::now();
    answer_.clear();
    text_.clear();
    last_ = Statistics();
    if (count == 0) throw Failure(ES_USAGE, "the prompt is empty; at least one token is expected");
    if (count > static_cast<size_t>(model_->context_length())) {
        throw Failure(ES_CONTEXT, "the prompt has " + std::to_string(count) + " tokens and the context " +
                                      std::to_string(model_->context_length()) +
                                      "; shorten it or open the model with a longer context");
    }
    for (size_t i = 0; i < count; ++i) {
        if (ids[i] >= 0 && ids[i] < model_->vocab_size()) continue;
        throw Failure(ES_USAGE, "a prompt's token id is outside the vocabulary of " +
                                    std::to_string(model_->vocab_size()));
    }
    if (generation.max_new_tokens < 0) throw Failure(ES_USAGE, "max_new_tokens is below 0");
    const int32_t most = generation.max_new_tokens != 0 ? generation.max_new_tokens : kUsualTokens;
    const int32_t room = model_->context_length() - static_cast<int32_t>(count) + 1;
    const int32_t limit = std::min(most, room);
    Sampler sampler(generation);
    StopStrings stops(generation.stop, generation.stop == nullptr ? 0 : generation.stops);
    Utf8Stream utf8;
    bool at_start = model_->strips_first_space();
    last_.prompt_tokens = static_cast<int32_t>(count);

    const Clock::time_point reading = Clock::now();
    const float *logits = prefill(ids, count);
    last_.prefill_seconds = since(reading);
    int32_t token = sampler.pick(logits, model_->vocab_size());
    Clock::time_point marked = Clock::now();
    last_.ttft_seconds = std::chrono::duration<double>(marked - begun).count();
    while (last_.finish_reason.empty()) {
        answer_.push_back(token);
        std::string text;
        if (generation.ignore_eos == 0 && model_->ends(token)) {
            last_.finish_reason = "eos";
        } else {
            const std::string &piece = model_->token_bytes(token);
            const size_t skipped = at_start && !piece.empty() && piece.front() == ' ' ? 1 : 0;
            at_start = at_start && piece.empty();
            text = utf8.push(piece.substr(skipped));
            if (answer_.size() == static_cast<size_t>(limit)) last_.finish_reason = "length";
        }
        if (!last_.finish_reason.empty()) text += utf8.finish();
        text = stops.push(text);
        if (stops.found()) {
            last_.finish_reason = "stop";
        } else if (!last_.finish_reason.empty()) {
            text += stops.finish();
        }
        text_ += text;
        const Clock::time_point given = Clock::now();
        const bool goes_on = on_token == nullptr || on_token(user, token, text.data(), text.size()) == 0;
        marked += Clock::now() - given;  // the caller's time is not the model's
        if (!last_.finish_reason.empty()) break;
        if (!goes_on || cancelled_) {
            last_.finish_reason = "cancelled";
            break;
        }
        logits = model_->append(&token, 1, [] { return false; });
        sequence_.push_back(token);
        token = sampler.pick(logits, model_->vocab_size());
        const Clock::time_point now = Clock::now();
        last_.token_seconds.push_back(std::chrono::duration<double>(now - marked).count());
        marked = now;
    }
    last_.total_seconds = since(begun);
    if (last_.finish_reason == "cancelled") throw Failure(ES_CANCELLED, "cancelled");
}

std::string Session::statistics() const {
    const nlohmann::ordered_json value = {
        {"schema", "edgestill.session/1"},
        {"model", model_->description()},
        {"artifact", named(artifact_)},
        {"threads", model_->threads()},
        {"context_length", model_->context_length()},
        {"kv_precision", model_->kv_precision()},
        {"weights_bytes", model_->weights_bytes()},
        {"load_seconds", load_seconds_},
        {"anonymous_rss_bytes", kilobytes_of("/proc/self/status", "RssAnon")},
        {"file_rss_bytes", kilobytes_of("/proc/self/status", "RssFile")},
        {"prompt_tokens", last_.prompt_tokens},
        {"reused_tokens", last_.reused_tokens},
        {"new_tokens", answer_.size()},
        {"ttft_seconds", last_.ttft_seconds},
        {"prefill_seconds", last_.prefill_seconds},
        {"total_seconds", last_.total_seconds},
        {"token_seconds", last_.token_seconds},
        {"finish_reason", named(last_.finish_reason)},
    };
    return value.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace edgestill
