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
