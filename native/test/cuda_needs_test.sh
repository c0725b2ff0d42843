#!/bin/sh
# Usage: cuda_needs_test.sh libhllm_cuda.so. The plugin needs the C library and cuBLASLt alone, exports its entry point alone, and
# holds code for sm_80 and sm_90.
set -eu
needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
for library in $needed; do
    case $library in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux-*.so.* | libcublasLt.so.*) ;;
    *) echo "$1 needs $library; all it needs: $needed"; exit 1 ;;
    esac
done
exported=$(nm -D --defined-only "$1" | awk '{ print $3 }' | tr '\n' ' ')
if [ "$exported" != "hllm_plugin " ]; then echo "$1 exports $exported"; exit 1; fi
# The kernels' images name the architecture that they were compiled for.
for arch in sm_80 sm_90; do
    if ! grep -aq "$arch" "$1"; then echo "$1 holds no code for $arch"; exit 1; fi
done
echo "needs $needed"
