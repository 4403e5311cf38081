#!/usr/bin/env bash
# Installs this build into a folder, builds the examples of the README against that alone, and runs them.
set -euo pipefail
source_dir=$1
build_dir=$2
cxx=$3
cc=$4
work=$(mktemp -d -t cmpool-install.XXXXXX)
runtime=$(mktemp -d -p /dev/shm cmpool-install.XXXXXX)
daemon=
clean_up() {
    [[ -z $daemon ]] || { kill "$daemon" && wait "$daemon" || true; }
    rm -rf "$work" "$runtime"
}
trap clean_up EXIT

# What the README shows is what is compiled here.
for example in reuse.c reuse.cpp; do
    python3 - "$source_dir/README.md" "$source_dir/client/c/examples/$example" <<'PYTHON'
import sys
readme, example = (open(path, encoding="utf-8").read() for path in sys.argv[1:])
if "```\n" not in readme or f"\n{example}```\n" not in readme:
    sys.exit(f"{sys.argv[1]} does not show {sys.argv[2]} as it is")
PYTHON
done

DESTDIR=$work/root cmake --install "$build_dir" --prefix /opt/cmpool >"$work/install.log"
prefix=$work/root/opt/cmpool
for file in include/cmpool.h include/cmpool.hpp lib*/cmake/cmpool/cmpoolConfig.cmake bin/cmpoold bin/cmpool-cli \
    bin/cmpool-serve lib/systemd/system/cmpoold.service; do
    compgen -G "$prefix/$file" >/dev/null || { echo "$file was not installed" && exit 1; }
done
library=$(dirname "$(find "$prefix" -name libcmpool.so)")
# No header of ours or of a package's is needed beyond these two, and no path of the build is in what was installed.
if grep -rlF "$build_dir" "$prefix/include" "$library/cmake" "$library/pkgconfig"; then
    echo "these name the folder they were built in"
    exit 1
fi

mkdir "$work/user"
cp "$source_dir"/client/c/examples/reuse.{c,cpp} "$work/user"
cat >"$work/user/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C CXX)
find_package(cmpool 0.1 REQUIRED)
add_executable(reuse_cpp reuse.cpp)
add_executable(reuse_c reuse.c)
target_compile_features(reuse_cpp PRIVATE cxx_std_20)
target_link_libraries(reuse_cpp PRIVATE cmpool::cmpool)
target_link_libraries(reuse_c PRIVATE cmpool::cmpool)
CMAKE
if ! cmake -S "$work/user" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="$cc" \
    -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wpedantic -Werror" >"$work/cmake.log" 2>&1 ||
    ! cmake --build "$work/build" >>"$work/cmake.log" 2>&1; then
    cat "$work/cmake.log"
    exit 1
fi
export PKG_CONFIG_PATH=$library/pkgconfig
read -ra flags <<<"$(pkg-config --cflags --libs cmpool)"
"$cc" -std=c11 -Wall -Wextra -pedantic -Werror "$work/user/reuse.c" "${flags[@]}" -o "$work/reuse_pc"

# Its header stands strict warnings also where the compiler is not told that it is somebody else's.
"$cxx" -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wold-style-cast -Werror "$work/user/reuse.cpp" \
    "${flags[@]}" -o "$work/reuse_pc_cpp"

# Port 0 picks one, and the first line says which.
mkfifo "$work/out"
"$prefix/bin/cmpoold" --listen 127.0.0.1:0 --capacity 16M --data-dir "$work/data" --runtime-dir "$runtime/run" \
    --log-level warn >"$work/out" &
daemon=$!
read -r -t 20 _ uri <"$work/out" || { echo "cmpoold did not become ready" && exit 1; }

expect() {
    local said=$1
    shift
    local seen
    seen=$(LD_LIBRARY_PATH=$library "$@" "$uri?deadline_ms=10000")
    [[ $seen == "$said" ]] || { echo "$*: expected '$said', saw '$seen'" && exit 1; }
}
expect "found 0 blocks, stored 6" "$work/build/reuse_cpp"
expect "found 6 blocks, stored 0" "$work/build/reuse_cpp"
expect "found 6 blocks, stored 0" "$work/reuse_pc_cpp"
expect "stored 5 bytes" "$work/build/reuse_c"
expect 'found "hello"' "$work/build/reuse_c"
expect 'found "hello"' "$work/reuse_pc"
echo "what was installed builds and runs the README's examples"
