// Matrix products by cuBLASLt. It counts in columns: a row-major c = a b is its c^T = b^T a^T, with the operands changed over.
// bf16 operands are summed in f32; f32 operands are multiplied as f32, never as TF32.
#include <cublasLt.h>

#include <map>
#include <tuple>

#include "cuda/backend.h"
#include "cuda/gemm.h"
#include "cuda/queue.h"

namespace hllm::cuda {

static void check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fail(status == CUBLAS_STATUS_ALLOC_FAILED ? HLLM_OUT_OF_MEMORY : HLLM_DEVICE_ERROR, "%s: cuBLASLt says %s", what,
         cublasLtGetStatusString(status));
}

std::string gemm_info() {
    const size_t version = cublasLtGetVersion();
    return "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100);
}

namespace {

// All that an algorithm is chosen by.
struct Operand {
    int32_t dtype;
    int64_t rows, columns, stride;  // as they lie in memory
    uint32_t alignment;             // of the address, bytes, 16 or less

    explicit Operand(const View& view)
        : dtype(view.dtype), rows(view.shape[0]), columns(view.shape[1]), stride(view.stride[0]) {
        if (rows == 1) stride = std::max(stride, columns);
        if (stride < columns)
            fail(HLLM_UNSUPPORTED, "matmul: device cuda multiplies no matrix whose rows overlap (stride %lld, width %lld)",
                 static_cast<long long>(stride), static_cast<long long>(columns));
        for (alignment = 16; reinterpret_cast<uintptr_t>(view.data) % alignment;) alignment /= 2;
    }
    auto key() const { return std::tie(dtype, rows, columns, stride, alignment); }
    bool operator<(const Operand& other) const { return key() < other.key(); }
};

struct Shape {
    Operand c, a, b;
    bool transpose_a, transpose_b;
    bool operator<(const Shape& other) const {
        return std::tie(c, a, b, transpose_a, transpose_b) <
               std::tie(other.c, other.a, other.b, other.transpose_a, other.transpose_b);
    }
};

// What cublasLtMatmul wants to know about a shape.
struct Product {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t c = nullptr, a = nullptr, b = nullptr;
    cublasLtMatmulAlgo_t algorithm;

    Product(cublasLtHandle_t handle, const Shape& shape) {
        check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "matmul");
        const cublasOperation_t op_a = shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                op_b = shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
        check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_b, sizeof op_b), "matmul");
        check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &op_a, sizeof op_a), "matmul");
        create(c, shape.c);
        create(a, shape.a);
        create(b, shape.b);
        cublasLtMatmulPreference_t preference = nullptr;
        check(cublasLtMatmulPreferenceCreate(&preference), "matmul");
        auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
            check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "matmul");
        };
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{Queue::WORKSPACE});
        // Partial sums meet in f32 and in one order: bf16 outputs are rounded once, and results repeat.
        prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.b.alignment);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.a.alignment);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.c.alignment);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.c.alignment);
        cublasLtMatmulHeuristicResult_t found{};
        int count = 0;
        const cublasStatus_t status =
            cublasLtMatmulAlgoGetHeuristic(handle, operation, b, a, c, c, preference, 1, &found, &count);
        cublasLtMatmulPreferenceDestroy(preference);
        check(status, "matmul: algorithm");
        check(count == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : found.state, "matmul: algorithm");
        algorithm = found.algo;
    }
    Product(const Product&) = delete;
    ~Product() {
        for (auto layout : {c, a, b})
            if (layout) cublasLtMatrixLayoutDestroy(layout);
        if (operation) cublasLtMatmulDescDestroy(operation);
    }
    static void create(cublasLtMatrixLayout_t& layout, const Operand& operand) {
        check(cublasLtMatrixLayoutCreate(&layout, operand.dtype == HLLM_F32 ? CUDA_R_32F : CUDA_R_16BF, operand.columns,
                                         operand.rows, operand.stride),
              "matmul");
    }
};

}  // namespace

struct Gemm {
    cublasLtHandle_t handle = nullptr;
    std::map<Shape, std::unique_ptr<Product>> products;

    Gemm() { check(cublasLtCreate(&handle), "matmul"); }
    Gemm(const Gemm&) = delete;
    ~Gemm() {
        products.clear();
        cublasLtDestroy(handle);
    }
    // Batches differ in their number of tokens: far from all shapes come back.
    const Product& product(const Shape& shape) {
        if (products.size() > 4096) products.clear();
        auto& known = products[shape];
        if (!known) known = std::make_unique<Product>(handle, shape);
        return *known;
    }
};

Gemm& gemm_of(Queue& queue) {
    if (!queue.gemm) queue.gemm = std::make_shared<Gemm>();
    return *queue.gemm;
}

static View like(const View& view, int32_t dtype, void* data) {
    View out = view;
    out.data = data;
    out.dtype = dtype;
    out.stride[0] = view.shape[1];
    return out;
}

void CudaBackend::matmul(Context& context, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b,
                         bool accumulate) {
    const int64_t k = a.shape[!transpose_a];
    if (c.shape[0] == 0 || c.shape[1] == 0) return;
    if (k == 0) {
        for (int64_t i = 0; i < c.shape[0] && !accumulate; i++) {
            const int64_t size = bytes_of(c.dtype);
            check(cudaMemsetAsync(static_cast<std::byte*>(c.data) + i * c.stride[0] * size, 0, c.shape[1] * size,
                                  stream_of(context)),
                  "matmul");
        }
        return;
    }
    if (c.dtype == HLLM_BF16 && a.dtype == HLLM_F32) {
        // cuBLASLt rounds no f32 product to bf16.
        const View wide = like(c, HLLM_F32, context.scratch.take<float>(c.elements()));
        if (accumulate) convert(context, wide, c);
        matmul(context, wide, a, b, transpose_a, transpose_b, accumulate);
        return convert(context, c, wide);
    }
    Queue& queue = queue_of(context);
    Gemm& gemm = gemm_of(queue);
    const Product& product = gemm.product({Operand(c), Operand(a), Operand(b), transpose_a, transpose_b});
    const float one = 1, beta = accumulate ? 1 : 0;
    check(cublasLtMatmul(gemm.handle, product.operation, &one, b.data, product.b, a.data, product.a, &beta, c.data, product.c,
                         c.data, product.c, &product.algorithm, queue.workspace, Queue::WORKSPACE, queue.stream),
          "matmul");
}

// The weight as an operand for an activation of this dtype: bf16 storage is widened for f32 activations.
static View operand(CudaBackend& backend, Context& context, const Weight& weight, int32_t activation) {
    const View& w = weight.values;
    if (w.dtype == activation) return w;
    const View wide = like(w, HLLM_F32, context.scratch.take<float>(w.elements()));
    backend.convert(context, wide, w);
    return wide;
}

void CudaBackend::linear_forward(Context& context, const View& y, const View& x, const Weight& weight, bool accumulate) {
    matmul(context, y, x, operand(*this, context, weight, x.dtype), false, true, accumulate);
}

void CudaBackend::linear_backward_input(Context& context, const View& dx, const View& dy, const Weight& weight,
                                        bool accumulate) {
    matmul(context, dx, dy, operand(*this, context, weight, dy.dtype), false, false, accumulate);
}

}  // namespace hllm::cuda
