# Read by llama.cpp's project() call (CMAKE_PROJECT_llama.cpp_INCLUDE): leave out what edgestill
# never loads, and compile the rest in less time. The kernels (ggml) are built as always.

# llama-cpp-python forces LLAMA_BUILD_COMMON on in the cache; a normal variable wins.
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_ALL_WARNINGS OFF)

# Reading the standard library's headers is a third of libllama's compile time.
cmake_language(DEFER CALL target_precompile_headers llama PRIVATE
    <algorithm> <array> <cmath> <cstring> <fstream> <functional> <future> <iomanip> <limits> <map>
    <memory> <random> <regex> <set> <sstream> <string> <unordered_map> <vector>)

# libllama only builds graphs and handles tokens: -O2 is as fast there as -O3.
if (NOT MSVC)
    cmake_language(DEFER CALL target_compile_options llama PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O2>)
endif()

# GCC drops the configuration of AMX's tiles that ggml writes (its bug 114098, mended in 11.5, 12.4 and 13.3): on a
# processor with AMX the first quantised product ends in an illegal instruction. ggml then takes its AVX-512 kernels.
if (CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64"
    AND (CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11.5
         OR (CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12 AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12.4)
         OR (CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13 AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3))
    AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 11)
    add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()
