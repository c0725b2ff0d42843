#!/bin/sh
# Usage: cuda_sass_test.sh libhllm_cuda.so CUOBJDUMP ARCHITECTURE... The compiler made the instructions that the kernels are
# written for: products on the tensor cores, copies to shared memory past the registers, loads of whole matrices from there.
set -u
plugin=$1 cuobjdump=$2
shift 2
if [ ! -x "$cuobjdump" ]; then
    echo "skipped: the CUDA toolkit has no cuobjdump (scripts/cuda-toolkit fetches one that does; PyPI: nvidia-cuda-cuobjdump)"
    exit 77
fi
"$cuobjdump" -sass "$plugin" | awk -v archs="$*" '
    /code for sm_/ { arch = $NF }
    /HMMA\.16816\.F32\.BF16/ { n[arch " HMMA.16816.F32.BF16"]++ }
    /LDGSTS/ { n[arch " LDGSTS"]++ }
    /LDSM/ { n[arch " LDSM"]++ }
    END {
        split(archs, all)
        for (i in all)
            for (j = split("HMMA.16816.F32.BF16 LDGSTS LDSM", wanted); j > 0; j--) {
                key = "sm_" all[i] " " wanted[j]
                print key ": " n[key] + 0
                if (!n[key]) missing = 1
            }
        exit missing
    }'
