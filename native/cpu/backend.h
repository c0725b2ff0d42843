// The CPU backend: one file per operation, forward and backward side by side.
#pragma once
#include "abi/backend.h"
#include "cpu/team.h"

namespace hllm {

class Cpu final : public Backend {
   public:
    const char* name() const override { return "cpu"; }
    std::string info() const override;
    int64_t memory_available() const override;
    void* allocate(Context&, int64_t bytes) override;
    void release(void* data, void* home) override;
    void synchronize(Context&) override {}  // every operation is complete on return
    void write(Context&, void* to, const void* host, int64_t bytes) override;
    void read(Context&, void* host, const void* from, int64_t bytes) override;
    std::shared_ptr<Event> make_event() override;
    std::shared_ptr<Graph> begin_capture(Context&) override;

    void fill(Context&, const View&, float) override;
    void convert(Context&, const View&, const View&) override;
    void matmul(Context&, const View&, const View&, const View&, bool, bool, bool) override;
    int64_t packed_bytes(const Weight&) const override;
    void pack(Context&, const Weight&) override;
    void linear_forward(Context&, const View&, const View&, const Weight&, bool) override;
    void linear_backward_input(Context&, const View&, const View&, const Weight&, bool) override;
    void embedding_forward(Context&, const View&, const View&, const View&, const View&) override;
    void embedding_backward(Context&, const View&, const View&, const View&, const View&) override;
    void gather_rows(Context&, const View&, const View&, const View&) override;
    void scatter_rows(Context&, const View&, const View&, const View&) override;
    void scatter_add_rows(Context&, const View&, const View&, const View&) override;
    void segment_mean_forward(Context&, const View&, const View&, const View&, const View&) override;
    void segment_mean_backward(Context&, const View&, const View&, const View&, const View&) override;
    void normalize_rows(Context&, const View&, const View&) override;
    void mul(Context&, const View&, const View&, const View&, bool) override;
    void rmsnorm_forward(Context&, const View&, const View&, const View&, const View&, float) override;
    void rmsnorm_backward(Context&, const View&, const View&, const View&, const View&, const View&, const View&,
                          bool) override;
    void layernorm_forward(Context&, const View&, const View&, const View&, const View&, const View&, float) override;
    void layernorm_backward(Context&, const View&, const View&, const View&, const View&, const View&, const View&,
                            bool) override;
    void bias_forward(Context&, const View&, const View&) override;
    void bias_backward(Context&, const View&, const View&) override;
    void gelu_forward(Context&, const View&, const View&) override;
    void gelu_backward(Context&, const View&, const View&, const View&) override;
    void rope(Context&, const View&, const View&, const View&, bool) override;
    void rope_scatter(Context&, const RopeScatter&) override;
    void swiglu_forward(Context&, const View&, const View&) override;
    void swiglu_backward(Context&, const View&, const View&, const View&) override;
    void attention_forward(Context&, const View&, const View&, const View&, const View&, const View&, const Plan&,
                           float) override;
    void attention_backward(Context&, const View&, const View&, const View&, const View&, const View&, const View&, const View&,
                            const View&, const View&, const Plan&, float) override;
    void infonce(Context&, const InfoNce&) override;
    void bce(Context&, const View&, const View&, const View&, const View&, int64_t) override;
    void norm(Context&, const View&, const View&) override;
    void clamp(Context&, const View&, float, float) override;
    void adamw(Context&, const AdamW&) override;
    void topk(Context&, const View&, const View&, const View&, const View&, const View&, const View&) override;
    void rank(Context&, const View&, const View&, const View&, const View&, const View&, const View&) override;
};

}  // namespace hllm
