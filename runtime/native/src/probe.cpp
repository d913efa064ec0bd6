// What this device can do at most, measured: bytes read from memory and operations a second. A profile holds them.
#include "probe.h"

#include <ggml-cpu.h>
#include <ggml.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "environment.h"
#include "loading.h"
#include "products.h"

namespace edgestill {

namespace {

using json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr size_t kLeastRead = size_t{64} << 20;
constexpr size_t kLeastOfAll = size_t{1} << 20;
constexpr int kPasses = 3;
constexpr double kSeconds = 0.4;
constexpr int64_t kSide = 512;
constexpr size_t kStreams = 4;
constexpr size_t kPage = 4096 / sizeof(uint64_t);

double since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

// The best of at least kPasses and of as many as kSeconds hold, after one that counts for nothing: a ceiling is wanted.
template <typename Pass>
double shortest(Pass pass) {
    pass();
    double best = 1e300;
    const Clock::time_point begun = Clock::now();
    for (int done = 0; done < kPasses || since(begun) < kSeconds; ++done) {
        const Clock::time_point start = Clock::now();
        pass();
        best = std::min(best, since(start));
    }
    return best;
}

// Several streams side by side, as a matrix's rows are read: one alone is slower than an engine.
uint64_t sum_of(const uint64_t *from, size_t count) {
    const size_t each = count / kStreams / kPage * kPage;
    uint64_t sums[kStreams] = {};
    for (size_t page = 0; page < each; page += kPage) {
        for (size_t stream = 0; stream < kStreams; ++stream) {
            const uint64_t *at = from + stream * each + page;
            uint64_t sum = 0;
            for (size_t i = 0; i < kPage; ++i) sum += at[i];
            sums[stream] += sum;
        }
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

// As much of the memory as may be taken: an eighth of what is free.
size_t most_bytes() {
    const json free = kilobytes_of("/proc/meminfo", "MemAvailable");
    return free.is_null() ? SIZE_MAX : static_cast<size_t>(free.get<uint64_t>() / 8);
}

// As much as no cache holds: beyond four times the last one size makes no difference any more.
size_t bytes_to_read() {
    size_t cache = 0;
    for (int index = 0; index < 8; ++index) {
        std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
        size_t value = 0;
        char unit = 0;
        if (file >> value >> unit) cache = std::max(cache, value << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0));
    }
    return std::max(kLeastOfAll, std::min(std::max(kLeastRead, 4 * cache), most_bytes()));
}

// Threads that are waited for however the block ends.
struct Threads {
    std::vector<std::thread> all;
    Threads() = default;
    Threads(const Threads &) = delete;
    Threads &operator=(const Threads &) = delete;
    ~Threads() {
        for (std::thread &one : all) one.join();
    }
};

double read_rate(const std::vector<uint64_t> &memory, unsigned threads) {
    const size_t part = memory.size() / threads / (kStreams * kPage) * (kStreams * kPage);
    std::atomic<uint64_t> sum{0};
    const double seconds = shortest([&] {
        Threads others;
        for (unsigned i = 1; i < threads; ++i) {
            others.all.emplace_back([&, i] { sum += sum_of(memory.data() + i * part, part); });
        }
        sum += sum_of(memory.data(), part);
    });
    // Taken from what was read, so that no compiler leaves the reading out.
    return sum == 1 ? 0 : static_cast<double>(part * threads * sizeof(uint64_t)) / seconds;
}

// The engine's own product of a matrix of `type` by a float32 one, of 512 x 512 each; two operations for each pair.
double product_rate(ggml_type type, int threads) {
    const size_t square = kSide * kSide;
    // The buffer is ours: without memory for its own, ggml ends the process.
    std::vector<uint8_t> buffer(4 * square * sizeof(float) + ggml_graph_overhead() + (size_t{1} << 20));
    const ggml_init_params given{buffer.size(), buffer.data(), false};
    const std::unique_ptr<ggml_context, decltype(&ggml_free)> context(ggml_init(given), ggml_free);
    if (!context) throw std::bad_alloc();
    ggml_tensor *left = ggml_new_tensor_2d(context.get(), type, kSide, kSide);
    ggml_tensor *right = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, kSide, kSide);
    std::vector<float> values(square);
    for (size_t i = 0; i < square; ++i) values[i] = static_cast<float>(i % 251) / 251.0f - 0.5f;
    std::memcpy(right->data, values.data(), ggml_nbytes(right));
    if (type == GGML_TYPE_F32) {
        std::memcpy(left->data, values.data(), ggml_nbytes(left));
    } else {
        ggml_quantize_chunk(type, values.data(), left->data, 0, kSide, kSide, nullptr);
    }
    ggml_cgraph *graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, ggml_mul_mat(context.get(), left, right));
    ggml_cplan plan = ggml_graph_plan(graph, threads, nullptr);
    std::vector<uint8_t> work(plan.work_size);
    plan.work_data = work.data();
    const double seconds = shortest([&] { ggml_graph_compute(graph, &plan); });
    return 2.0 * static_cast<double>(square) * kSide / seconds;
}

}  // namespace

std::string probe_json() {
    const Loading quiet;
    start_llama();
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    std::vector<int> counts = {1};
    if (cores > 1) counts.push_back(static_cast<int>(cores));
    json rows = json::array();
    const size_t read_bytes = bytes_to_read();
    {
        // Ones, written: pages that nobody wrote are all the same one.
        const std::vector<uint64_t> memory(read_bytes / sizeof(uint64_t), 1);
        for (const int threads : counts) {
            rows.push_back({{"threads", threads},
                            {"read_bytes_per_second", read_rate(memory, static_cast<unsigned>(threads))},
                            {"int8_ops_per_second", product_rate(GGML_TYPE_Q8_0, threads)},
                            {"float32_ops_per_second", product_rate(GGML_TYPE_F32, threads)}});
        }
    }
    json products = json::array();
    for (const Product &one : measure_products(counts, most_bytes())) {
        products.push_back({{"weights", one.weights},
                            {"threads", one.threads},
                            {"read_bytes", one.read_bytes},
                            {"bytes_per_second", one.bytes_per_second}});
    }
    const json document = {{"schema", "edgestill.probe/1"},
                           {"environment", environment_json()},
                           {"read_bytes", read_bytes / sizeof(uint64_t) * sizeof(uint64_t)},
                           {"kernels", llama_print_system_info()},
                           {"threads", rows},
                           {"products", products}};
    return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace edgestill
