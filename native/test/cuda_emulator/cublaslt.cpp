// The emulated cuBLASLt: combinations of types, alignments and workspaces are refused where cuBLASLt refuses them; products
// are plain loops.
#include <cublasLt.h>

#include <algorithm>

#include "cuda_emulator/engine.h"

namespace {

using namespace hllm::cuda;

struct Operand {
    const void* p;
    cublasLtMatrix layout;
    bool transposed;

    Operand(const void* p, const cublasLtMatrix* layout, uint64_t op) : p(p), layout(*layout), transposed(op == CUBLAS_OP_T) {}
    int64_t rows() const { return transposed ? layout.columns : layout.rows; }
    int64_t columns() const { return transposed ? layout.rows : layout.columns; }
    int64_t bytes() const { return ((layout.columns - 1) * layout.stride + layout.rows) * (layout.type == CUDA_R_32F ? 4 : 2); }
    float at(int64_t row, int64_t column) const {
        const int64_t i = transposed ? row * layout.stride + column : column * layout.stride + row;
        return layout.type == CUDA_R_32F ? load_f32(static_cast<const float*>(p) + i)
                                         : load_f32(static_cast<const bf16*>(p) + i);
    }
};

cublasStatus_t check(const Operand& a, const Operand& b, const Operand& c) {
    if (a.rows() != c.rows() || b.columns() != c.columns() || a.columns() != b.rows()) return CUBLAS_STATUS_INVALID_VALUE;
    const bool types = a.layout.type == b.layout.type && (a.layout.type == CUDA_R_16BF || c.layout.type == CUDA_R_32F);
    return types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// d = alpha a b + beta c, where d is c.
void multiply(void* d, const Operand& a, const Operand& b, const Operand& c, float alpha, float beta) {
    for (const Operand& operand : {a, b, c}) emulator::require_live("cublasLtMatmul", operand.p, operand.bytes());
    if (emulator::broken()) return;
    const int64_t M = c.rows(), K = a.columns();
    std::vector<float> left, sum;  // a's columns one after the other; a column of the product
    for (int64_t k = 0; k < K; k++)
        for (int64_t m = 0; m < M; m++) left.push_back(a.at(m, k));
    for (int64_t n = 0; n < c.columns(); n++) {
        sum.assign(M, 0);
        for (int64_t k = 0; k < K; k++) {
            const float right = b.at(k, n);
            for (int64_t m = 0; m < M; m++) sum[m] += left[k * M + m] * right;
        }
        for (int64_t m = 0; m < M; m++) {
            const float result = alpha * sum[m] + (beta == 0 ? 0 : beta * c.at(m, n));
            const int64_t i = n * c.layout.stride + m;
            c.layout.type == CUDA_R_32F ? store_f32(static_cast<float*>(d) + i, result)
                                        : store_f32(static_cast<bf16*>(d) + i, result);
        }
    }
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
    thread_local std::string text;
    text = "cublasStatus_t " + std::to_string(status);
    return text.c_str();
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
    *found = 0;
    if (wanted < 1 || c != d) return CUBLAS_STATUS_INVALID_VALUE;
    const uint64_t* op = operation->values;
    const Operand left(nullptr, a, op[CUBLASLT_MATMUL_DESC_TRANSA]), right(nullptr, b, op[CUBLASLT_MATMUL_DESC_TRANSB]);
    if (const cublasStatus_t status = check(left, right, {nullptr, c, CUBLAS_OP_N})) return status;
    *results = {*preference, preference->values[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES], CUBLAS_STATUS_SUCCESS};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    const uint64_t *op = operation->values, *promised = algorithm->values;
    const Operand left(a, a_layout, op[CUBLASLT_MATMUL_DESC_TRANSA]), right(b, b_layout, op[CUBLASLT_MATMUL_DESC_TRANSB]),
        sum(c, c_layout, CUBLAS_OP_N);
    if (const cublasStatus_t status = check(left, right, sum)) return status;
    const void* operands[] = {a, b, c, d};
    bool kept = c == d && c_layout == d_layout && workspace_bytes >= promised[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES];
    for (int i = 0; i < 4; i++)
        kept &= reinterpret_cast<uintptr_t>(operands[i]) % promised[CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i] == 0;
    if (!kept) return CUBLAS_STATUS_INVALID_VALUE;
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const cudaError_t queued = emulator::enqueue(stream, [=] {
        if (workspace_bytes) emulator::require_live("cublasLtMatmul: workspace", workspace, workspace_bytes);
        multiply(d, left, right, sum, scale, keep);
    });
    return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
