# Read by llama.cpp's project() call (CMAKE_PROJECT_llama.cpp_INCLUDE): leave out what edgestill
# never loads. llama-cpp-python forces LLAMA_BUILD_COMMON on in the cache; a normal variable wins.
set(LLAMA_BUILD_COMMON OFF)
