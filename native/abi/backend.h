// What a device implements. The ABI layer (abi.cpp) has checked every argument before one of these is called, so kernels
// see typed, in-bounds views and say nothing about errors except what only they can know.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "abi/error.h"

namespace hllm {

// A resolved tensor: address, shape and strides in elements; the innermost stride is 1.
struct View {
    void* data = nullptr;
    int32_t dtype = HLLM_F32;
    int32_t rank = 0;
    int64_t shape[4] = {1, 1, 1, 1};
    int64_t stride[4] = {0, 0, 0, 1};

    float* f32() const { return static_cast<float*>(data); }
    uint16_t* bf16() const { return static_cast<uint16_t*>(data); }
    int32_t* i32() const { return static_cast<int32_t*>(data); }
    explicit operator bool() const { return data != nullptr; }
    int64_t elements() const {
        int64_t n = 1;
        for (int i = 0; i < rank; i++) n *= shape[i];
        return n;
    }
    float* row(int64_t i) const { return f32() + i * stride[0]; }
};

class Backend;

// Memory of a device; the backend that made it frees it.
struct Buffer {
    Backend* backend;
    void* data;
    int64_t bytes;
    bool wrapped;  // foreign, read-only pages
    Buffer(Backend* backend, void* data, int64_t bytes, bool wrapped)
        : backend(backend), data(data), bytes(bytes), wrapped(wrapped) {}
    Buffer(const Buffer&) = delete;
    ~Buffer();
};

struct Weight {
    Backend* backend;
    std::shared_ptr<Buffer> source_buffer;  // kept alive with the weight
    View source;                            // [N,K], f32 or bf16
    std::shared_ptr<Buffer> own;            // the bf16 copy of an f32 source
    View values;                            // what the kernels read
};

// Attention plan: the caller's segments and spans, and the reverse list from pieces of keys to the segments that read them.
struct Plan {
    Backend* backend = nullptr;
    bool causal = true;
    int32_t query_rows = 0, key_rows = 0;
    struct Segment {
        int32_t query, queries;  // first query row, count
        int32_t span, spans;     // range in `spans`
        int32_t keys;            // sum of span lengths
    };
    struct Span {
        int32_t begin, length;
        int32_t position;  // logical position of its first key within its segment
    };
    std::vector<Segment> segments;
    std::vector<Span> spans;
    // Maximal runs of key rows that are read as a whole by the same segments; disjoint, ascending.
    struct Piece {
        int32_t begin, length;
        int32_t reader, readers;  // range in `readers`
    };
    struct Reader {
        int32_t segment, position;  // logical position of the piece's first row in that segment
    };
    std::vector<Piece> pieces;
    std::vector<Reader> readers;
    int64_t bytes() const;
    Plan() = default;
    Plan(const Plan&) = delete;
    ~Plan();
};

// Checks and copies the host arrays, and derives the pieces.
std::shared_ptr<Plan> make_plan(const hllm_plan_args& args);

struct InfoNce {
    float threshold;
    int64_t positions;
    View metrics, du, dp, dn, dlogit_scale, u, p, n, target_ids, negative_ids, logit_scale;
};

struct AdamW {
    float lr, beta1, beta2, eps, weight_decay, gradient_scale;
    int64_t step;
    View parameters, gradients, moment1, moment2;
};

// Temporary memory of one call. Grows to the largest call seen, then allocates nothing.
class Scratch {
   public:
    explicit Scratch(Backend* backend) : backend_(backend) {}
    Scratch(const Scratch&) = delete;
    void reset();  // at the start of a call
    template <class T>
    T* take(int64_t count) {
        return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
    }

   private:
    void* take_bytes(int64_t bytes);
    Backend* backend_;
    std::vector<std::unique_ptr<Buffer>> chunks_;
    int64_t used_ = 0;  // in the last chunk
};

struct Context {
    explicit Context(Backend* backend) : backend(backend), scratch(backend) {}
    Backend* backend;
    Scratch scratch;
    std::atomic<std::thread::id> user{};  // the thread inside a call
};

class Backend {
   public:
    virtual ~Backend() = default;
    virtual const char* name() const = 0;

    std::atomic<int64_t> live_bytes{0};
    // Zero-filled, aligned to 64; throws OUT_OF_MEMORY with sizes.
    virtual void* allocate(int64_t bytes) = 0;
    virtual void release(void* data, int64_t bytes) = 0;
    virtual void synchronize(Context&) = 0;
    virtual void write(Context&, void* to, const void* host, int64_t bytes) = 0;
    virtual void read(Context&, void* host, const void* from, int64_t bytes) = 0;

    virtual void fill(Context&, const View& out, float value) = 0;
    virtual void convert(Context&, const View& out, const View& in) = 0;

    virtual void matmul(Context&, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b,
                        bool accumulate) = 0;
    virtual void linear_forward(Context&, const View& y, const View& x, const Weight& weight, bool accumulate) = 0;
    virtual void linear_backward_input(Context&, const View& dx, const View& dy, const Weight& weight, bool accumulate) = 0;

    virtual void embedding_forward(Context&, const View& out, const View& ids, const View& table, const View& special) = 0;
    virtual void embedding_backward(Context&, const View& dtable, const View& dspecial, const View& dout, const View& ids) = 0;
    virtual void gather_rows(Context&, const View& out, const View& in, const View& index) = 0;
    virtual void scatter_add_rows(Context&, const View& out, const View& in, const View& index) = 0;
    virtual void segment_mean_forward(Context&, const View& out, const View& in, const View& offsets, const View& rows) = 0;
    virtual void segment_mean_backward(Context&, const View& din, const View& dout, const View& offsets, const View& rows) = 0;
    virtual void normalize_rows(Context&, const View& out, const View& in) = 0;

    virtual void rmsnorm_forward(Context&, const View& y, const View& saved_rstd, const View& x, const View& weight,
                                 float eps) = 0;
    virtual void rmsnorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved_rstd,
                                  const View& x, const View& weight, bool accumulate) = 0;
    virtual void rope(Context&, const View& x, const View& positions, const View& table, bool inverse) = 0;
    virtual void swiglu_forward(Context&, const View& y, const View& gate_up) = 0;
    virtual void swiglu_backward(Context&, const View& dgate_up, const View& dy, const View& gate_up) = 0;

    virtual void attention_forward(Context&, const View& out, const View& saved_lse, const View& q, const View& k,
                                   const View& v, const Plan& plan, float scale) = 0;
    virtual void attention_backward(Context&, const View& dq, const View& dk, const View& dv, const View& saved_out,
                                    const View& saved_lse, const View& dout, const View& q, const View& k, const View& v,
                                    const Plan& plan, float scale) = 0;
    virtual void infonce(Context&, const InfoNce& args) = 0;

    virtual void norm(Context&, const View& out, const View& in) = 0;
    virtual void clamp(Context&, const View& in, float low, float high) = 0;
    virtual void adamw(Context&, const AdamW& args) = 0;

    virtual void topk(Context&, const View& scores, const View& rows, const View& queries, const View& table,
                      const View& excluded_offsets, const View& excluded_rows) = 0;
    virtual void rank(Context&, const View& ranks, const View& queries, const View& table, const View& targets,
                      const View& excluded_offsets, const View& excluded_rows) = 0;
};

Backend* cpu_backend();

// Index arrays are checked where they are read: on the host, before any output is touched.
void check_indices(const char* op, const char* what, const View& index, int64_t low, int64_t high);

}  // namespace hllm
