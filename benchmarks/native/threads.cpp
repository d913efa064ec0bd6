// What ThreadSanitizer watches: answers cancelled from other threads, and two sessions at once.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "edgestill.h"

namespace {

using Ids = std::vector<int32_t>;

es_session *opened(const char *bundle, int threads) {
    es_options options{};
    options.size = sizeof options;
    options.threads = threads;
    es_session *session = nullptr;
    if (es_open(bundle, nullptr, &options, &session) != ES_OK) {
        std::fprintf(stderr, "%s\n", es_error());
        std::exit(1);
    }
    return session;
}

Ids answered(es_session *session, const char *prompt, int tokens, es_status expected) {
    Ids ids(256), answer(4096);
    size_t count = 0;
    es_tokenize(session, prompt, std::strlen(prompt), 1, ids.data(), ids.size(), &count);
    es_generation generation{};
    generation.size = sizeof generation;
    generation.max_new_tokens = tokens;
    generation.ignore_eos = 1;
    const es_status status = es_generate(session, ids.data(), count, &generation, nullptr, nullptr);
    if (status != expected && !(expected == ES_CANCELLED && status == ES_OK)) {
        std::fprintf(stderr, "status %d: %s\n", status, es_error());
        std::exit(1);
    }
    es_answer(session, answer.data(), answer.size(), &count);
    answer.resize(count);
    return answer;
}

}  // namespace

int main(int count, char **words) {
    if (count != 2) return std::puts("usage: threads BUNDLE"), 2;
    // Cancelled at many moments, from two threads; the session answers as before afterwards.
    es_session *one = opened(words[1], 2);
    const Ids expected = answered(one, "Once upon a time", 24, ES_OK);
    int cancelled = 0;
    for (int round = 0; round < 60; ++round) {
        std::thread first([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(round * 500));
            es_cancel(one);
        });
        std::thread second([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(round * 700));
            es_cancel(one);
        });
        cancelled += answered(one, "The lighthouse keeper climbed the stairs", 200, ES_CANCELLED).size() < 200;
        first.join();
        second.join();
        es_reset(one);
        if (answered(one, "Once upon a time", 24, ES_OK) != expected) return std::puts("another answer"), 1;
    }
    // Two sessions answer at once, open and close meanwhile, and each gives its tokens.
    std::atomic<int> wrong{0};
    std::vector<std::thread> workers;
    for (int worker = 0; worker < 2; ++worker) {
        workers.emplace_back([&] {
            for (int round = 0; round < 6; ++round) {
                es_session *own = opened(words[1], 1);
                wrong += answered(own, "Once upon a time", 24, ES_OK) != expected;
                wrong += es_selftest(own, [](void *, const char *, size_t) {}, nullptr) != ES_OK;
                wrong += es_open("/nowhere", nullptr, nullptr, &own) != ES_NOT_FOUND || *es_error() == '\0';
                es_close(own);
            }
        });
    }
    for (std::thread &worker : workers) worker.join();
    es_close(one);
    std::printf("%d of 60 answers cancelled, %d wrong\n", cancelled, wrong.load());
    return wrong == 0 ? 0 : 1;
}
