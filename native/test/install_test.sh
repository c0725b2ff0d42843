#!/bin/sh
# install_test.sh SOURCE BUILD CMAKE CC: installs the built library into a temporary prefix, moves it, and builds and runs
# native/example there with CMake and with pkg-config. Exit status 77: a part was skipped.
set -eu
source=$1 build=$2 cmake=$3 cc=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/installed" >"$work/log"
mv "$work/installed" "$work/moved prefix"  # nothing may remember where it was installed, nor mind a space
prefix="$work/moved prefix"

echo "== find_package(hllm)"
"$cmake" -S "$source/native/example" -B "$work/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix" >>"$work/log"
"$cmake" --build "$work/build" >>"$work/log" || { cat "$work/log"; exit 1; }
"$work/build/embed"

library=$(find "$prefix" -name libhllm.so | head -n 1)
if command -v nm >/dev/null; then
    echo "== exported symbols"
    if nm -D --defined-only "$library" | awk '{ print $NF }' | grep -v '^hllm_'; then
        echo "libhllm.so exports more than hllm_*"
        exit 1
    fi
fi

echo "== pkg-config"
pkg_config=$(command -v pkg-config || command -v pkgconf || true)
if [ -z "$pkg_config" ]; then
    echo "skipped: pkg-config is not installed"
    exit 77
fi
PKG_CONFIG_PATH=$(find "$prefix" -type d -name pkgconfig)
export PKG_CONFIG_PATH
# eval, as the paths hold a space, which pkg-config escapes for a shell.
eval "\"\$cc\" -std=c11 \"\$source/native/example/embed.c\" -o \"\$work/embed\" $("$pkg_config" --cflags --libs hllm) -lm"
LD_LIBRARY_PATH=$(dirname "$library") "$work/embed"
