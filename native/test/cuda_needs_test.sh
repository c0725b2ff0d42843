#!/bin/sh
# Usage: cuda_needs_test.sh libhllm_cuda.so ARCHITECTURE... The plugin needs the C library and cuBLASLt alone, looks for them in
# no folder without a name (the working directory), exports its entry point alone, and holds code for the architectures.
set -eu
plugin=$1
shift
needed=$(readelf -d "$plugin" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
for library in $needed; do
    case $library in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux-*.so.* | libcublasLt.so.*) ;;
    *) echo "$plugin needs $library; all it needs: $needed"; exit 1 ;;
    esac
done
path=$(readelf -d "$plugin" | sed -n 's/.*(R\(UN\)\{0,1\}PATH).*\[\(.*\)\]/\2/p')
case ":$path:" in
*::*) echo "$plugin looks for libraries in the working directory: its path is [$path]"; exit 1 ;;
esac
exported=$(nm -D --defined-only "$plugin" | awk '{ print $3 }' | tr '\n' ' ')
if [ "$exported" != "hllm_plugin " ]; then echo "$plugin exports $exported"; exit 1; fi
# The kernels' images name the architecture that they were compiled for.
for arch in "$@"; do
    if ! grep -aq "sm_$arch" "$plugin"; then echo "$plugin holds no code for sm_$arch"; exit 1; fi
done
echo "needs $needed, looks in $path"
