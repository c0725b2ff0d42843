// The emulated cuBLASLt: combinations of types, alignments and workspaces are refused where cuBLASLt refuses them; products
// are plain loops.
#include <cublasLt.h>

#include <algorithm>
#include <memory>
#include <new>

#include "cuda_emulator/engine.h"

struct cublasLtContext {};

struct cublasLtMatmulDescOpaque_t {
    cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
};

struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType_t type;
    int64_t rows, columns, stride;
    int64_t bytes() const { return ((columns - 1) * stride + rows) * (type == CUDA_R_32F ? 4 : 2); }
    bool operator==(const cublasLtMatrixLayoutOpaque_t& o) const {
        return type == o.type && rows == o.rows && columns == o.columns && stride == o.stride;
    }
};

// Also what an algorithm is made of: it may be used with pointers so aligned and so much workspace.
struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};  // a, b, c, d; cuBLASLt's defaults
    uint32_t reduction = 0;                        // products here are never split
};

namespace {

using namespace hllm::cuda;
using Layout = cublasLtMatrixLayoutOpaque_t;
using Preference = cublasLtMatmulPreferenceOpaque_t;
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulAlgo_t));

template <class Opaque>
cublasStatus_t destroy(Opaque* object) {
    delete object;
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t assign(T& to, const void* value, size_t bytes) {
    if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

// The sizes after transposition, [rows, columns].
int64_t rows(const Layout& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.rows : m.columns; }
int64_t columns(const Layout& m, cublasOperation_t op) { return op == CUBLAS_OP_N ? m.columns : m.rows; }

cublasStatus_t check_product(const cublasLtMatmulDescOpaque_t& op, const Layout& a, const Layout& b, const Layout& c,
                             const Layout& d) {
    if (rows(a, op.transpose_a) != d.rows || columns(b, op.transpose_b) != d.columns ||
        columns(a, op.transpose_a) != rows(b, op.transpose_b) || !(c == d))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool types = a.type == b.type && (a.type == CUDA_R_16BF || d.type == CUDA_R_32F);
    return types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct Operand {
    const void* p;
    Layout layout;
    cublasOperation_t op;

    float value(int64_t i) const {
        return layout.type == CUDA_R_32F ? static_cast<const float*>(p)[i] : to_float(static_cast<const bf16*>(p)[i]);
    }
    // The columns of op(m), one after the other.
    std::vector<float> plain() const {
        std::vector<float> out;
        const bool by_columns = op == CUBLAS_OP_N;
        const int64_t outer = by_columns ? layout.columns : layout.rows, inner = by_columns ? layout.rows : layout.columns;
        for (int64_t o = 0; o < outer; o++)
            for (int64_t i = 0; i < inner; i++)
                out.push_back(value(by_columns ? o * layout.stride + i : i * layout.stride + o));
        return out;
    }
};

// d = alpha op(a) op(b) + beta c; c has d's layout.
void multiply(const Operand& a, const Operand& b, const Operand& c, void* d, float alpha, float beta) {
    const Layout& layout = c.layout;
    emulator::require_live("cublasLtMatmul", a.p, a.layout.bytes());
    emulator::require_live("cublasLtMatmul", b.p, b.layout.bytes());
    emulator::require_live("cublasLtMatmul", beta == 0 ? d : c.p, layout.bytes());
    emulator::require_live("cublasLtMatmul", d, layout.bytes());
    if (emulator::broken()) return;
    // Column by column: left[n * K + k] is op(b)(k, n), right[k * M + m] is op(a)(m, k).
    const std::vector<float> left = b.plain(), right = a.plain();
    const int64_t M = layout.rows, K = columns(a.layout, a.op);
    std::vector<float> sum(static_cast<size_t>(M));
    for (int64_t n = 0; n < layout.columns; n++) {
        std::fill(sum.begin(), sum.end(), 0.f);
        for (int64_t k = 0; k < K; k++)
            for (int64_t m = 0; m < M; m++) sum[m] += left[n * K + k] * right[k * M + m];
        for (int64_t m = 0; m < M; m++) {
            const int64_t i = n * layout.stride + m;
            const float result = alpha * sum[m] + (beta == 0 ? 0 : beta * c.value(i));
            if (layout.type == CUDA_R_32F)
                static_cast<float*>(d)[i] = result;
            else
                static_cast<bf16*>(d)[i] = to_bf16(result);
        }
    }
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
    thread_local std::string text;
    text = "cublasStatus_t " + std::to_string(status);
    return text.c_str();
}

size_t cublasLtGetVersion() { return 130102; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = new cublasLtContext();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t, cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *operation = new cublasLtMatmulDescOpaque_t();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
    return assign(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? operation->transpose_a : operation->transpose_b, value, bytes);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) { return destroy(operation); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows, uint64_t columns,
                                          int64_t stride) {
    const auto signed_rows = static_cast<int64_t>(rows);
    if (rows == 0 || columns == 0 || stride < signed_rows) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new Layout{type, signed_rows, static_cast<int64_t>(columns), stride};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy(layout); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new Preference();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            return assign(preference->workspace, value, bytes);
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            return assign(preference->reduction, value, bytes);
        default:
            return assign(preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    }
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return destroy(preference); }

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
    *found = 0;
    if (const cublasStatus_t status = check_product(*operation, *a, *b, *c, *d)) return status;
    if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *results = {};
    std::memcpy(results->algo.data, preference, sizeof(*preference));
    results->workspaceSize = preference->workspace;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    if (const cublasStatus_t status = check_product(*operation, *a_layout, *b_layout, *c_layout, *d_layout)) return status;
    Preference promised;
    std::memcpy(&promised, algorithm->data, sizeof(promised));
    const void* pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (reinterpret_cast<uintptr_t>(pointers[i]) % promised.alignment[i] != 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes < promised.workspace) return CUBLAS_STATUS_INVALID_VALUE;
    const Operand left{a, *a_layout, operation->transpose_a}, right{b, *b_layout, operation->transpose_b},
        added{c, *c_layout, CUBLAS_OP_N};
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const cudaError_t queued = emulator::enqueue(stream, [=] {
        if (workspace_bytes) emulator::require_live("cublasLtMatmul: workspace", workspace, workspace_bytes);
        multiply(left, right, added, d, scale, keep);
    });
    return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
