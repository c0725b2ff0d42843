// The CUDA backend: one file per operation, as in native/cpu. Views hold device addresses; every operation is enqueued on the
// context's stream. Activations are f32 or bf16, sums are f32.
#pragma once
#include "cuda/runtime.h"

namespace hllm::cuda {

class CudaBackend final : public Backend {
   public:
    CudaBackend();  // throws UNSUPPORTED where there is no usable GPU or driver
    const char* name() const override;
    std::string info() const override;
    int64_t memory_available() const override;
    bool bf16_activations() const override { return true; }
    int64_t max_head_width() const override;

    std::shared_ptr<void> open(Context&) override;
    void enter(const char* op) override;
    void leave() override;
    void* allocate(Context&, int64_t bytes) override;
    void release(void* data, void* home) override;
    void synchronize(Context&) override;
    void write(Context&, void* to, const void* host, int64_t bytes) override;
    void read(Context&, void* host, const void* from, int64_t bytes) override;
    std::shared_ptr<Event> make_event() override;
    std::shared_ptr<Graph> begin_capture(Context&) override;

    // rows.cu, row_sums.cu
    void fill(Context&, const View& out, float value) override;
    void convert(Context&, const View& out, const View& in) override;
    void embedding_forward(Context&, const View& out, const View& ids, const View& table, const View& special) override;
    void embedding_backward(Context&, const View& dtable, const View& dspecial, const View& dout, const View& ids) override;
    void gather_rows(Context&, const View& out, const View& in, const View& index) override;
    void scatter_rows(Context&, const View& out, const View& in, const View& index) override;
    void scatter_add_rows(Context&, const View& out, const View& in, const View& index) override;
    void segment_mean_forward(Context&, const View& out, const View& in, const View& offsets, const View& rows) override;
    void segment_mean_backward(Context&, const View& din, const View& dout, const View& offsets, const View& rows) override;
    void normalize_rows(Context&, const View& out, const View& in) override;
    void mul(Context&, const View& out, const View& a, const View& b, bool accumulate) override;

    // gemm.cu. matmul: c f32 or bf16; a and b both f32 or both bf16.
    void matmul(Context&, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b,
                bool accumulate) override;
    void linear_forward(Context&, const View& y, const View& x, const Weight& weight, bool accumulate) override;
    void linear_backward_input(Context&, const View& dx, const View& dy, const Weight& weight, bool accumulate) override;

    // rmsnorm.cu, layernorm.cu, bias.cu, gelu.cu, rope.cu, swiglu.cu
    void rmsnorm_forward(Context&, const View& y, const View& saved_rstd, const View& x, const View& weight,
                         float eps) override;
    void rmsnorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved_rstd, const View& x,
                          const View& weight, bool accumulate) override;
    void layernorm_forward(Context&, const View& y, const View& saved, const View& x, const View& weight, const View& bias,
                           float eps) override;
    void layernorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved, const View& x,
                            const View& weight, bool accumulate) override;
    void bias_forward(Context&, const View& y, const View& bias) override;
    void bias_backward(Context&, const View& dbias, const View& dy) override;
    void gelu_forward(Context&, const View& y, const View& x) override;
    void gelu_backward(Context&, const View& dx, const View& dy, const View& x) override;
    void rope(Context&, const View& x, const View& positions, const View& table, bool inverse) override;
    void rope_scatter(Context&, const RopeScatter& args) override;
    void swiglu_forward(Context&, const View& y, const View& gate_up) override;
    void swiglu_backward(Context&, const View& dgate_up, const View& dy, const View& gate_up) override;

    // attention.cu
    void prepare(Context&, Plan&) override;
    void attention_forward(Context&, const View& out, const View& saved_lse, const View& q, const View& k, const View& v,
                           const Plan& plan, float scale) override;
    void attention_backward(Context&, const View& dq, const View& dk, const View& dv, const View& saved_out,
                            const View& saved_lse, const View& dout, const View& q, const View& k, const View& v,
                            const Plan& plan, float scale) override;

    // infonce.cu, bce.cu
    void infonce(Context&, const InfoNce& args) override;
    void bce(Context&, const View& loss, const View& dlogits, const View& logits, const View& labels,
             int64_t positions) override;

    // adamw.cu
    void norm(Context&, const View& out, const View& in) override;
    void clamp(Context&, const View& in, float low, float high) override;
    void adamw(Context&, const AdamW& args) override;

    // topk.cu
    void topk(Context&, const View& scores, const View& rows, const View& queries, const View& table,
              const View& excluded_offsets, const View& excluded_rows) override;
    void rank(Context&, const View& ranks, const View& queries, const View& table, const View& targets,
              const View& excluded_offsets, const View& excluded_rows) override;
};

}  // namespace hllm::cuda
