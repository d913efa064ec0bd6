#!/bin/bash
# Compile libedgestill for iOS, on a Mac: EdgestillCore.xcframework, static, for devices and for the simulator.
#
#     scripts/build-xcframework.sh NATIVE LLAMA
#
# NATIVE is the folder runtime/native of edgestill's source (or edgestill/runtime/native of an installed one), LLAMA
# the source of llama.cpp out of llama-cpp-python's source distribution (its folder vendor/llama.cpp), of the version
# that NATIVE/source.py pins. Set CPU=apple-a13 and IOS=26.0 where no older device has to be served: 8-bit dot products.
set -euo pipefail

if [ $# -ne 2 ] || [ ! -f "$1/include/edgestill.h" ] || [ ! -f "$2/include/llama.h" ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
native=$(cd "$1" && pwd)
llama=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
ios=${IOS:-17.0}
cpu=${CPU:-apple-a12}
jobs=${JOBS:-$(sysctl -n hw.ncpu)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What llama.cpp's own build would write.
mkdir "$work/versions"
for name in ggml llama; do
    upper=$(echo "$name" | tr '[:lower:]' '[:upper:]')
    printf '#define %s_VERSION "edgestill"\n#define %s_COMMIT "unknown"\n' "$upper" "$upper" \
        >"$work/versions/$name-version.h"
done

includes=("-I$llama/include" "-I$llama/ggml/include" "-I$llama/common" "-I$llama/vendor" "-I$llama/vendor/hash"
    "-I$llama/vendor/hash/sha256")
core=("-I$work/versions" "-I$llama/ggml/src" "-I$llama/ggml/src/ggml-cpu" "-I$llama/src" "${includes[@]}" -w
    -DGGML_USE_CPU -DGGML_USE_CPU_REPACK -DGGML_USE_LLAMAFILE -D_XOPEN_SOURCE=600 -D_DARWIN_C_SOURCE)
own=("-I$native/include" "-I$native/src" "${includes[@]}" -Wall -DES_OWN_LLAMA)

# One line a source: its group, and its path.
sources() {
    find "$native/src" -maxdepth 1 -name '*.cpp' ! -name main.cpp | sed 's/^/own /'
    find "$llama/common/jinja" -name '*.cpp' | sed 's/^/template /'
    printf 'template %s\n' "$llama/common/json.cpp" "$llama/common/unicode.cpp" "$llama/vendor/hash/sha256/sha256.c"
    find "$llama/ggml/src" -maxdepth 1 \( -name 'ggml*.c' -o -name 'ggml*.cpp' -o -name gguf.cpp \) | sed 's/^/core /'
    find "$llama/src" -maxdepth 1 -name '*.cpp' | sed 's/^/core /'
    find "$llama/src/models" -name '*.cpp' | sed 's/^/core /'
    local kernels="$llama/ggml/src/ggml-cpu"
    find "$kernels" -maxdepth 1 \( -name '*.c' -o -name '*.cpp' \) | sed 's/^/core /'
    find "$kernels/amx" "$kernels/tiled" "$kernels/llamafile" -name '*.cpp' 2>/dev/null | sed 's/^/core /' || true
    printf 'core %s\n' "$kernels/arch/arm/quants.c" "$kernels/arch/arm/repack.cpp"
}

# One slice: an SDK and the target that the compiler is told.
slice() {
    local sdk=$1 target=$2 out="$work/$1"
    mkdir -p "$out"
    echo "compiling for $target" >&2
    local number=0
    while read -r group path; do
        number=$((number + 1))
        local flags=(-target "$target" "-mcpu=$cpu" -O3 -fPIC -fvisibility=hidden -DNDEBUG -g0)
        local compiler=clang standard=-std=c11
        if [ "${path##*.}" = cpp ]; then compiler=clang++ standard=-std=c++17; fi
        case $group in
        own) flags+=("${own[@]}") ;;
        template) flags+=("${includes[@]}" -w) ;;
        core) flags+=("${core[@]}") ;;
        esac
        printf '%s\0' xcrun --sdk "$sdk" "$compiler" "$standard" "${flags[@]}" -c "$path" -o "$out/$number.o" \
            >"$out/$number.command"
    done < <(sources)
    find "$out" -name '*.command' -print0 | xargs -0 -n 1 -P "$jobs" sh -c 'xargs -0 env <"$1" || exit 255' compile
    xcrun --sdk "$sdk" libtool -static -o "$out/libedgestill.a" "$out"/*.o
}

slice iphoneos "arm64-apple-ios$ios"
slice iphonesimulator "arm64-apple-ios$ios-simulator"
rm -rf "$root/EdgestillCore.xcframework"
xcodebuild -create-xcframework \
    -library "$work/iphoneos/libedgestill.a" \
    -library "$work/iphonesimulator/libedgestill.a" \
    -output "$root/EdgestillCore.xcframework"
