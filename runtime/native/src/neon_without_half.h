// NEON of cores without VFPv4's half precision (Cortex-A8, A9): what ggml's kernels use of it, by the compiler's own
// conversions.
#if !defined(__ASSEMBLER__) && defined(__ARM_NEON) && !(__ARM_FP & 2)
#include <arm_neon.h>

static inline float16x4_t edgestill_vld1_f16(const __fp16 *from) {
    float16x4_t values;
    __builtin_memcpy(&values, from, sizeof values);
    return values;
}
static inline float16x8_t edgestill_vld1q_f16(const __fp16 *from) {
    float16x8_t values;
    __builtin_memcpy(&values, from, sizeof values);
    return values;
}
static inline float32x4_t edgestill_vcvt_f32_f16(float16x4_t half) {
    const float32x4_t values = {(float)half[0], (float)half[1], (float)half[2], (float)half[3]};
    return values;
}
#define vld1_f16 edgestill_vld1_f16
#define vld1q_f16 edgestill_vld1q_f16
#define vcvt_f32_f16 edgestill_vcvt_f32_f16
#endif
