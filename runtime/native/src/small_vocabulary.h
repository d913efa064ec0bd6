// Comes before llama.cpp's llama-vocab.cpp in our own builds: its maps from texts to numbers, of the tokens and of the
// merges, are CompactMaps there, and its copy of every token's text isn't kept: without it llama_token_to_piece makes
// the text of the token that it is asked for. Only llama.cpp's grammars need the copy, and nothing here has one.
// Both are private to that file; what it includes is included here first, so that the names mean others nowhere else.
#pragma once

#include <algorithm>
#include <cassert>
#include <cctype>
#include <cfloat>
#include <cmath>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <forward_list>
#include <limits>
#include <map>
#include <queue>
#include <set>
#include <type_traits>
#include <unordered_map>

#include "ggml.h"
#include "gguf.h"
#include "llama-impl.h"
#include "llama-model-loader.h"
#include "llama-vocab.h"
#include "unicode.h"

#include "compact_map.h"

namespace std {

template <class Key, class Value, class... More>
using edgestill_map = conditional_t<edgestill::KeyText<Key>::kKnown, edgestill::CompactMap<Key, Value>,
                                    unordered_map<Key, Value, More...>>;

// The file swaps one thing: the copy of all texts, just made, for the empty one that is kept.
template <class Kept>
void edgestill_forget(Kept &, Kept &) {}

}  // namespace std

#define unordered_map edgestill_map
#define swap edgestill_forget
