#include "sha256.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define SHA_TARGET __attribute__((target("sha,sse4.1,ssse3")))
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#define SHA_TARGET __attribute__((target("sha2")))
#else
#define SHA_TARGET __attribute__((target("+sha2")))
#endif
#endif

namespace edgestill {

namespace {

constexpr size_t kBlock = 64;

#ifdef SHA_TARGET

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#if defined(__x86_64__)

bool supported() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || (c >> 9 & c >> 19 & 1) == 0) return false;  // SSSE3, SSE4.1
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1) != 0;
}

SHA_TARGET void compress(uint32_t *state, const uint8_t *bytes, size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    auto *place = reinterpret_cast<__m128i *>(state);
    // The instructions want the words as (a, b, e, f) and (c, d, g, h), the first one highest.
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(place), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(place + 1), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; blocks > 0; --blocks, bytes += kBlock) {
        const __m128i abef_before = abef;
        const __m128i cdgh_before = cdgh;
        __m128i word[4];
        for (int i = 0; i < 4; ++i) {
            word[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes) + i), big_endian);
        }
        for (int four = 0; four < 16; ++four) {
            __m128i &now = word[four & 3];
            if (four >= 4) {
                const __m128i last = word[(four + 3) & 3];
                const __m128i across = _mm_alignr_epi8(last, word[(four + 2) & 3], 4);
                now = _mm_sha256msg1_epu32(now, word[(four + 1) & 3]);
                now = _mm_sha256msg2_epu32(_mm_add_epi32(now, across), last);
            }
            const __m128i constants = _mm_load_si128(reinterpret_cast<const __m128i *>(kRound) + four);
            const __m128i sum = _mm_add_epi32(now, constants);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128(place, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(place + 1, _mm_alignr_epi8(dchg, feba, 8));
}

#else

bool supported() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) >> 6 & 1) != 0;  // HWCAP_SHA2
#else
    return true;  // each of Apple's has them
#endif
}

SHA_TARGET void compress(uint32_t *state, const uint8_t *bytes, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(state);
    uint32x4_t efgh = vld1q_u32(state + 4);
    for (; blocks > 0; --blocks, bytes += kBlock) {
        const uint32x4_t abcd_before = abcd;
        const uint32x4_t efgh_before = efgh;
        uint32x4_t word[4];
        for (int i = 0; i < 4; ++i) word[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(bytes + 16 * i)));
        for (int four = 0; four < 16; ++four) {
            uint32x4_t &now = word[four & 3];
            if (four >= 4) {
                now = vsha256su1q_u32(vsha256su0q_u32(now, word[(four + 1) & 3]), word[(four + 2) & 3],
                                      word[(four + 3) & 3]);
            }
            const uint32x4_t sum = vaddq_u32(now, vld1q_u32(kRound + 4 * four));
            const uint32x4_t before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, before, sum);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#endif
#else

bool supported() { return false; }
void compress(uint32_t *, const uint8_t *, size_t) {}

#endif

constexpr uint32_t kStart[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

std::string hex(const uint8_t *digest, size_t size) {
    static const char digits[] = "0123456789abcdef";
    std::string text;
    text.reserve(2 * size);
    for (size_t i = 0; i < size; ++i) {
        text += digits[digest[i] >> 4];
        text += digits[digest[i] & 15];
    }
    return text;
}

}  // namespace

bool has_sha256_instructions() {
    static const bool found = supported();
    return found;
}

Sha256::Sha256(bool portable) : own_(!portable && has_sha256_instructions()) {
    sha256_init(&portable_);
    std::copy(std::begin(kStart), std::end(kStart), state_);
}

void Sha256::update(const uint8_t *bytes, size_t size) {
    if (!own_) return sha256_update(&portable_, bytes, size);
    total_ += size;
    if (held_ != 0) {
        const size_t taken = std::min(size, kBlock - held_);
        std::memcpy(block_ + held_, bytes, taken);
        held_ += taken;
        bytes += taken;
        size -= taken;
        if (held_ < kBlock) return;
        compress(state_, block_, 1);
        held_ = 0;
    }
    compress(state_, bytes, size / kBlock);
    held_ = size % kBlock;
    if (held_ != 0) std::memcpy(block_, bytes + size - held_, held_);
}

std::string Sha256::finish() {
    uint8_t digest[32];
    if (!own_) {
        sha256_final(&portable_, digest);
        return hex(digest, sizeof digest);
    }
    // A one bit, zeros, and the length in bits at the end of a block.
    uint8_t tail[2 * kBlock] = {};
    std::memcpy(tail, block_, held_);
    tail[held_] = 0x80;
    const size_t size = held_ < kBlock - 8 ? kBlock : 2 * kBlock;
    for (size_t i = 0; i < 8; ++i) tail[size - 1 - i] = static_cast<uint8_t>(total_ * 8 >> (8 * i));
    compress(state_, tail, size / kBlock);
    for (size_t i = 0; i < sizeof digest; ++i) digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    return hex(digest, sizeof digest);
}

}  // namespace edgestill
