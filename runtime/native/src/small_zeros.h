// Comes before the files of ggml that allocate a graph's tables, in our own builds: zeros take memory when they are
// first written (buffers.cpp).
#pragma once

#include <stdlib.h>

#ifdef __cplusplus
extern "C" void *edgestill_calloc(size_t count, size_t size);
#else
void *edgestill_calloc(size_t count, size_t size);
#endif

#define calloc edgestill_calloc
