// llama.cpp's process-wide things: its start, what it logs, and what it does where it would end the process.
#pragma once

#include <llama.h>

#include <mutex>
#include <string>

namespace edgestill {

// While llama.cpp loads or measures on this thread, what it asserts is an error and not the process's end: the exception
// unwinds through its frames. Elsewhere an assertion stays one.
//
// What llama.cpp logs is one for a process. A library that has llama.cpp in it keeps it to itself; one that shares the
// host's takes it while it loads and frees, and gives it back.
class Loading {
public:
    Loading();
    ~Loading();
    Loading(const Loading &) = delete;
    Loading &operator=(const Loading &) = delete;

private:
    static inline std::mutex mutex_;
    static inline int loads_ = 0;
    static inline ggml_log_callback callback_ = nullptr;
    static inline void *user_ = nullptr;
};

// What llama.cpp wants before anything else of it; its first error is forgotten.
void start_llama();

// The first error that llama.cpp logged on this thread since it was last forgotten.
std::string reason();
void forget_reason();

}  // namespace edgestill
