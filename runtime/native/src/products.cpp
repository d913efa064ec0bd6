// llama.cpp's own products of weights and a vector, which decoding a token consists of; the same measurement as
// edgestill/runtime/products_worker.py makes on a machine with Python.
#include "products.h"

#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>
#include <vector>

namespace edgestill {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kRows = 4096;
constexpr int64_t kColumns = 1024;
constexpr size_t kSizes[] = {size_t{16} << 20, size_t{128} << 20, size_t{512} << 20};
constexpr size_t kMostTensors = GGML_DEFAULT_GRAPH_SIZE;
constexpr size_t kLeastPasses = 3;
constexpr double kLeastSeconds = 0.1;
// A scale and values of this byte are small numbers in every type: kernels are slow with subnormal ones.
constexpr uint8_t kByte = 0x2c;

struct Free {
    void operator()(ggml_context *context) const { ggml_free(context); }
    void operator()(ggml_backend_buffer *buffer) const { ggml_backend_buffer_free(buffer); }
    void operator()(ggml_backend *backend) const { ggml_backend_free(backend); }
};
using Buffer = std::unique_ptr<ggml_backend_buffer, Free>;

// A context for tensors whose data lie elsewhere. Its memory is ours: without some for its own, ggml ends the process.
class Context {
public:
    explicit Context(size_t size) : memory_(size), context_(ggml_init({size, memory_.data(), true})) {
        if (!context_) throw std::bad_alloc();
    }
    ggml_context *get() const { return context_.get(); }

private:
    std::vector<uint8_t> memory_;
    std::unique_ptr<ggml_context, Free> context_;
};

// The kinds of memory for weights in the order in which llama.cpp asks each whether it takes them.
std::vector<ggml_backend_buffer_type_t> buffer_types(ggml_backend_dev_t device) {
    std::vector<ggml_backend_buffer_type_t> found;
    void *address = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device),
                                                      "ggml_backend_dev_get_extra_bufts");
    if (address != nullptr) {
        ggml_backend_buffer_type_t *extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(address)(device);
        for (; extra != nullptr && *extra != nullptr; ++extra) found.push_back(*extra);
    }
    found.push_back(ggml_backend_dev_buffer_type(device));
    return found;
}

void compute(ggml_backend_t backend, ggml_cgraph *graph) {
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) throw std::bad_alloc();
}

// The median of the seconds of some passes, after one that counts for nothing.
double usual(ggml_backend_t backend, ggml_cgraph *graph) {
    compute(backend, graph);
    std::vector<double> seconds;
    double all = 0;
    while (seconds.size() < kLeastPasses || all < kLeastSeconds) {
        const Clock::time_point begun = Clock::now();
        compute(backend, graph);
        seconds.push_back(std::chrono::duration<double>(Clock::now() - begun).count());
        all += seconds.back();
    }
    const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    return *middle;
}

// Adds the rates of `size` bytes of weights in memory of this kind; false where there are no products for it.
bool measure(ggml_backend_t backend, ggml_backend_buffer_type_t place, ggml_type type, size_t size,
             const std::vector<int> &threads, std::vector<Product> &found) {
    const size_t each = ggml_row_size(type, kColumns) * kRows;
    const size_t count = std::max<size_t>(1, std::min(kMostTensors - 1, (size + each / 2) / each));
    const Context matrices(count * ggml_tensor_overhead());
    const Context others((count + 2) * ggml_tensor_overhead() + ggml_graph_overhead());
    std::vector<ggml_tensor *> given;
    for (size_t i = 0; i < count; ++i) given.push_back(ggml_new_tensor_2d(matrices.get(), type, kColumns, kRows));
    const Buffer weights(ggml_backend_alloc_ctx_tensors_from_buft(matrices.get(), place));
    if (!weights) throw std::bad_alloc();
    ggml_tensor *vector = ggml_new_tensor_2d(others.get(), GGML_TYPE_F32, kColumns, 1);
    ggml_cgraph *graph = ggml_new_graph(others.get());
    for (ggml_tensor *matrix : given) {
        ggml_tensor *product = ggml_mul_mat(others.get(), matrix, vector);
        if (!ggml_backend_supports_op(backend, product)) return false;
        ggml_build_forward_expand(graph, product);
    }
    const Buffer rest(ggml_backend_alloc_ctx_tensors(others.get(), backend));
    if (!rest) throw std::bad_alloc();
    given.push_back(vector);
    for (ggml_tensor *tensor : given) {
        const std::vector<uint8_t> bytes(ggml_nbytes(tensor), kByte);
        ggml_backend_tensor_set(tensor, bytes.data(), 0, bytes.size());
    }
    for (const int number : threads) {
        ggml_backend_cpu_set_n_threads(backend, number);
        const auto read = static_cast<double>(count * each);
        found.push_back({ggml_type_name(type), number, count * each, read / usual(backend, graph)});
    }
    return true;
}

}  // namespace

std::vector<Product> measure_products(const std::vector<int> &threads, size_t most_bytes) {
    std::vector<Product> found;
    const std::unique_ptr<ggml_backend, Free> backend(ggml_backend_cpu_init());
    if (!backend) throw std::bad_alloc();
    const std::vector<ggml_backend_buffer_type_t> places = buffer_types(ggml_backend_get_device(backend.get()));
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
        for (const size_t size : kSizes) {
            if (size > most_bytes) continue;
            for (const ggml_backend_buffer_type_t place : places) {
                if (measure(backend.get(), place, type, size, threads, found)) break;
            }
        }
    }
    return found;
}

}  // namespace edgestill
