// edgestill-run: a bundle on the command line, over the C ABI alone.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "edgestill.h"

namespace {

const char kUsage[] =
    "usage: edgestill-run generate MODEL [--prompt TEXT | --messages JSON | --ids N,N,...] [options]\n"
    "       edgestill-run selftest BUNDLE [options]\n"
    "       edgestill-run bench MODEL [--prompt-tokens 128] [--new-tokens 64] [--repetitions 5] [options]\n"
    "       edgestill-run probe        (what this device reads and computes in a second)\n"
    "\n"
    "MODEL is a bundle's folder or a .gguf file. Options:\n"
    "  --artifact NAME       of the bundle (default: the one it ships)\n"
    "  --threads N           (default: by the model's size)\n"
    "  --context N           tokens (default: as trained, at most 4096)\n"
    "  --kv-precision TYPE   f16, f32, q8_0, q4_0\n"
    "  --no-mmap             read the weights into memory\n"
    "  --no-repack           no copy of 4-bit weights in memory, and slower\n"
    "  --max-new-tokens N    (256)\n"
    "  --temperature X --top-k N --top-p X --min-p X --seed N\n"
    "  --stop TEXT           ends the answer; may be given several times\n"
    "  --ignore-eos\n"
    "  --print-ids           token ids on a line, not the text\n"
    "  --statistics          JSON of the answer's times on stderr\n"
    "\n"
    "Exit status: 0 done, 1 it failed or the self-test differs, 2 bad usage.\n";

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;

es_session *running = nullptr;

void on_interrupt(int) { es_cancel(running); }

[[noreturn]] void usage(const std::string &what) {
    std::fprintf(stderr, "error: %s\n\n%s", what.c_str(), kUsage);
    std::exit(kBadUsage);
}

int report(es_status status) {
    if (status == ES_OK) return 0;
    std::fprintf(stderr, "error: %s\n", es_error());
    return status == ES_USAGE || status == ES_NOT_FOUND ? kBadUsage : kFailed;
}

void print_line(void *stream, const char *text, size_t length) {
    std::fwrite(text, 1, length, static_cast<std::FILE *>(stream));
    std::fputc('\n', static_cast<std::FILE *>(stream));
}

void keep(void *string, const char *text, size_t length) { static_cast<std::string *>(string)->assign(text, length); }

int print_piece(void *, int32_t, const char *text, size_t length) {
    std::fwrite(text, 1, length, stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
}

struct Arguments {
    std::string command, model, artifact, kv_precision, prompt, messages, ids;
    bool has_prompt = false, print_ids = false, statistics = false;
    int32_t prompt_tokens = 128, new_tokens = 64, repetitions = 5;
    std::vector<std::string> stop;
    es_options options{};
    es_generation generation{};
};

template <typename Number>
Number number(const std::string &name, const char *text) {
    char *end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end != '\0' || static_cast<double>(static_cast<Number>(value)) != value) {
        usage(name + ": '" + text + "' is not a number for it");
    }
    return static_cast<Number>(value);
}

template <>
float number<float>(const std::string &name, const char *text) {
    char *end = nullptr;
    const float value = std::strtof(text, &end);
    if (end == text || *end != '\0') usage(name + ": '" + text + "' is not a number");
    return value;
}

Arguments parsed(int count, char **texts) {
    Arguments given;
    given.options.size = sizeof given.options;
    given.generation.size = sizeof given.generation;
    for (int at = 1; at < count; ++at) {
        const std::string name = texts[at];
        if (name == "--help" || name == "-h") {
            std::fputs(kUsage, stdout);
            std::exit(0);
        }
        if (name.compare(0, 2, "--") != 0) {
            std::string &place = given.command.empty() ? given.command : given.model;
            if (!place.empty()) usage("'" + name + "' is one argument too many");
            place = name;
            continue;
        }
        if (name == "--no-mmap") {
            given.options.no_mmap = 1;
        } else if (name == "--no-repack") {
            given.options.no_repack = 1;
        } else if (name == "--ignore-eos") {
            given.generation.ignore_eos = 1;
        } else if (name == "--print-ids") {
            given.print_ids = true;
        } else if (name == "--statistics") {
            given.statistics = true;
        } else {
            if (at + 1 == count) usage(name + " wants a value, or isn't an option");
            const char *value = texts[++at];
            if (name == "--artifact") given.artifact = value;
            else if (name == "--threads") given.options.threads = number<int32_t>(name, value);
            else if (name == "--context") given.options.context_length = number<int32_t>(name, value);
            else if (name == "--kv-precision") given.kv_precision = value;
            else if (name == "--prompt") given.prompt = value, given.has_prompt = true;
            else if (name == "--messages") given.messages = value;
            else if (name == "--ids") given.ids = value;
            else if (name == "--max-new-tokens") given.generation.max_new_tokens = number<int32_t>(name, value);
            else if (name == "--temperature") given.generation.temperature = number<float>(name, value);
            else if (name == "--top-k") given.generation.top_k = number<int32_t>(name, value);
            else if (name == "--top-p") given.generation.top_p = number<float>(name, value);
            else if (name == "--min-p") given.generation.min_p = number<float>(name, value);
            else if (name == "--seed") given.generation.seed = number<uint64_t>(name, value);
            else if (name == "--stop") given.stop.emplace_back(value);
            else if (name == "--prompt-tokens") given.prompt_tokens = number<int32_t>(name, value);
            else if (name == "--new-tokens") given.new_tokens = number<int32_t>(name, value);
            else if (name == "--repetitions") given.repetitions = number<int32_t>(name, value);
            else usage(name + " is not an option");
        }
    }
    if (given.command == "probe") {
        if (!given.model.empty()) usage("probe takes no model");
        return given;
    }
    if (given.command != "generate" && given.command != "selftest" && given.command != "bench") {
        usage(given.command.empty() ? "no command" : "'" + given.command + "' is not a command");
    }
    if (given.model.empty()) usage("no model");
    const int prompts = given.has_prompt + !given.messages.empty() + !given.ids.empty();
    if (given.command == "generate" && prompts != 1) usage("give one of --prompt, --messages and --ids");
    return given;
}

std::vector<int32_t> listed(const std::string &text) {
    std::vector<int32_t> ids;
    for (size_t start = 0; start <= text.size();) {
        const size_t end = text.find(',', start) == std::string::npos ? text.size() : text.find(',', start);
        ids.push_back(number<int32_t>("--ids", text.substr(start, end - start).c_str()));
        start = end + 1;
    }
    return ids;
}

es_status prompt_ids(es_session *session, const Arguments &given, std::vector<int32_t> &ids) {
    if (!given.ids.empty()) {
        ids = listed(given.ids);
        return ES_OK;
    }
    std::string text = given.prompt;
    if (!given.messages.empty()) {
        const es_status status = es_apply_template(session, given.messages.c_str(), keep, &text);
        if (status != ES_OK) return status;
    }
    // A template writes its own BOS; without one es_apply_template gives plain lines.
    size_t count = 0;
    const int special = given.messages.empty();
    ids.resize(text.size() + 8);
    const es_status status = es_tokenize(session, text.data(), text.size(), special, ids.data(), ids.size(), &count);
    ids.resize(status == ES_OK ? count : 0);
    return status;
}

int generate(es_session *session, Arguments &given) {
    std::vector<int32_t> ids;
    es_status status = prompt_ids(session, given, ids);
    if (status != ES_OK) return report(status);
    std::vector<const char *> stops;
    for (const std::string &stop : given.stop) stops.push_back(stop.c_str());
    given.generation.stop = stops.data();
    given.generation.stops = stops.size();
    running = session;
    std::signal(SIGINT, on_interrupt);
    const es_on_token shown = given.print_ids ? nullptr : print_piece;
    status = es_generate(session, ids.data(), ids.size(), &given.generation, shown, nullptr);
    std::signal(SIGINT, SIG_DFL);
    if (status != ES_OK) return report(status);
    std::vector<int32_t> answer;
    size_t count = 0;
    es_answer(session, nullptr, 0, &count);
    answer.resize(count);
    es_answer(session, answer.data(), answer.size(), &count);
    if (given.print_ids) {
        for (size_t i = 0; i < answer.size(); ++i) std::printf(i == 0 ? "%d" : ",%d", answer[i]);
    }
    std::printf("\n");
    if (given.statistics) es_statistics(session, print_line, stderr);
    return std::fflush(stdout) == 0 ? 0 : kFailed;
}

}  // namespace

int main(int count, char **texts) {
#ifdef __GLIBC__
    // Else glibc keeps larger and larger blocks in its heap, where a freed one stays with the process.
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
    Arguments given = parsed(count, texts);
    if (given.command == "probe") return report(es_probe(print_line, stdout));
    if (!given.kv_precision.empty()) given.options.kv_precision = given.kv_precision.c_str();
    es_session *session = nullptr;
    const char *artifact = given.artifact.empty() ? nullptr : given.artifact.c_str();
    const es_status opened = es_open(given.model.c_str(), artifact, &given.options, &session);
    if (opened != ES_OK) return report(opened);
    int status = 0;
    if (given.command == "generate") {
        status = generate(session, given);
    } else if (given.command == "selftest") {
        status = report(es_selftest(session, print_line, stdout));
    } else {
        status = report(
            es_bench(session, given.prompt_tokens, given.new_tokens, given.repetitions, print_line, stdout));
    }
    es_close(session);
    return status;
}
