#include "loading.h"

#include <cstdio>
#include <stdexcept>

namespace edgestill {

namespace {

thread_local std::string first_error;
thread_local int loading = 0;

void keep_first_error(ggml_log_level level, const char *text, void *) {
    if (level != GGML_LOG_LEVEL_ERROR || !first_error.empty()) return;
    first_error = text;
    while (!first_error.empty() && first_error.back() == '\n') first_error.pop_back();
}

void on_abort(const char *message) {
    if (loading != 0) throw std::runtime_error(message);
    std::fprintf(stderr, "%s\n", message);
}

}  // namespace

Loading::Loading() {
    ++loading;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (loads_++ == 0) {
        llama_log_get(&callback_, &user_);
        llama_log_set(keep_first_error, nullptr);
    }
}

Loading::~Loading() {
    --loading;
    const std::lock_guard<std::mutex> lock(mutex_);
#ifndef ES_OWN_LLAMA
    if (--loads_ == 0) llama_log_set(callback_, user_);
#endif
}

void start_llama() {
    static std::once_flag once;
    std::call_once(once, [] {
        ggml_set_abort_callback(on_abort);
        llama_backend_init();
    });
    forget_reason();
}

std::string reason() { return first_error.empty() ? "it gives no reason" : first_error; }

void forget_reason() { first_error.clear(); }

}  // namespace edgestill
