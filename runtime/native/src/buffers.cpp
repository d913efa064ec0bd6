// What our own build of llama.cpp clears a buffer with: its files are compiled with ggml_backend_buffer_clear defined
// as edgestill_buffer_clear. Theirs writes zeros, which makes all of a new KV cache resident, however little of it an
// answer comes to use; this gives the pages back to the system, which hands out zeros when one is next touched.
// Likewise for ggml's tables of a graph, most of which stays empty (small_zeros.h): the C library of our static programs
// writes calloc's zeros.
#ifdef ES_OWN_LLAMA

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "ggml-backend.h"

#ifdef __linux__
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#endif

namespace {

#ifdef __linux__

constexpr size_t kLeast = 1 << 17;  // an allocator's block below that shares its pages with others

// Make the block zero; false where whole pages of it can't be given back.
bool give_back(char *start, size_t size) {
#if defined(__aarch64__)
    // A pointer's upper byte may hold a tag, which isn't part of the address. Where memory is tagged too (MTE), a new
    // page wouldn't have its pointer's tag.
    constexpr int kGetTagging = 56;               // PR_GET_TAGGED_ADDR_CTRL
    constexpr unsigned long kTagsAreChecked = 6;  // PR_MTE_TCF_MASK
    const int tagging = prctl(kGetTagging, 0, 0, 0, 0);
    if (tagging > 0 && (static_cast<unsigned long>(tagging) & kTagsAreChecked) != 0) return false;
    start = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(start) & ~(uintptr_t{0xff} << 56));
#endif
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t before = (page - reinterpret_cast<uintptr_t>(start) % page) % page;
    if (size < kLeast || size < before + page) return false;
    const size_t whole = (size - before) / page * page;
    if (madvise(start + before, whole, MADV_DONTNEED) != 0) return false;  // locked in memory
    std::memset(start, 0, before);
    std::memset(start + before + whole, 0, size - before - whole);
    return true;
}

#else

bool give_back(char *, size_t) { return false; }

#endif

}  // namespace

extern "C" void edgestill_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    // Others than the processor's own buffers may lie in a device or in a file.
    const bool ours = ggml_backend_buffer_get_type(buffer) == ggml_backend_cpu_buffer_type();
    const size_t size = ggml_backend_buffer_get_size(buffer);
    if (value == 0 && ours && give_back(static_cast<char *>(ggml_backend_buffer_get_base(buffer)), size)) return;
    ggml_backend_buffer_clear(buffer, value);
}

extern "C" void *edgestill_calloc(size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) return nullptr;
    char *block = static_cast<char *>(std::malloc(count * size));
    if (block != nullptr && !give_back(block, count * size)) std::memset(block, 0, count * size);
    return block;
}

#endif
