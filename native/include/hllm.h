/*
 * hllm.h: the whole C ABI of hllm4j. C11, no dependency.
 *
 * Status     Every function that can fail returns an int32_t: HLLM_OK (0) or another hllm_status. The text of the last
 *            error of the calling thread is hllm_error_message(). Nothing is written to the outputs of a refused call;
 *            no exception, exit or abort leaves the library.
 * Handles    hllm_context, hllm_buffer, hllm_weight and hllm_plan are opaque. destroy(NULL) is fine; a destroyed handle
 *            is recognised and refused, also after its slot has been reused. A context is used by one thread at a time
 *            (a second one is refused); calls on different contexts may run in parallel.
 * Tensors    A tensor crosses the ABI as a const hllm_tensor *: a typed, strided window onto a buffer, read during the call
 *            only. The innermost stride must be 1. Rank, dtype, device and bounds are checked at every call. Outputs must
 *            not overlap inputs, except where a function says "in place".
 * Order      context, outputs, saved values, inputs, weights, options.
 * Gradients  Gradients of parameters ADD to what is there; gradients of activations OVERWRITE unless `accumulate` says
 *            otherwise. A NULL gradient is not computed where a function says "may be NULL".
 * Devices    "cpu": operations are complete on return. "cuda" (from the plugin libhllm_cuda.so, on the first GPU visible) and
 *            "cuda-emulated" (the same kernels on the CPU, slowly, for tests): they are enqueued on the context's stream, and
 *            a fault that shows late, such as an index out of range, is reported by the context's next hllm_buffer_read
 *            or hllm_context_synchronize. Contexts that share a buffer are ordered by events or by synchronize; a buffer
 *            goes back in the order of the context that created it.
 * Numbers    f32, and sums in f32. Where a function says "activation", a tensor may be bf16 instead, if hllm_supports says
 *            so (cuda does, cpu does not: HLLM_UNSUPPORTED). On the CPU a result depends on the instruction set, but not
 *            on the number of threads nor on their schedule.
 *
 * Dimensions: T packed tokens, D hidden, F feed-forward, V vocabulary, H query heads, Hkv key/value heads, Dh head width,
 * B users, M negatives, K top-k, N catalogue rows.
 */
#ifndef HLLM_H
#define HLLM_H

#include <stdint.h>

#if defined(HLLM_BUILD) && defined(__GNUC__)
#define HLLM_API __attribute__((visibility("default")))
#else
#define HLLM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The major number changes when a compiled caller would break, the minor when something is added. */
#define HLLM_ABI_MAJOR 1
#define HLLM_ABI_MINOR 4

enum hllm_status {
    HLLM_OK = 0,
    HLLM_INVALID_ARGUMENT = 1,
    HLLM_OUT_OF_MEMORY = 2,
    HLLM_UNSUPPORTED = 3,
    HLLM_DEVICE_ERROR = 4,
    HLLM_INTERNAL = 5
};

enum hllm_dtype { HLLM_F32 = 0, HLLM_BF16 = 1, HLLM_I32 = 2 };

typedef struct hllm_context hllm_context;
typedef struct hllm_buffer hllm_buffer;
typedef struct hllm_weight hllm_weight;
typedef struct hllm_plan hllm_plan;
typedef struct hllm_event hllm_event;
typedef struct hllm_graph hllm_graph;

/* A window of rank 1 to 4 onto a buffer. Strides are in elements; shape and stride beyond the rank are ignored. */
typedef struct hllm_tensor {
    uint32_t struct_size; /* sizeof(hllm_tensor) */
    int32_t dtype;        /* enum hllm_dtype */
    hllm_buffer *buffer;
    int64_t offset; /* bytes from the start of the buffer, a multiple of the element size */
    int32_t rank;
    int32_t reserved; /* 0 */
    int64_t shape[4];
    int64_t stride[4];
} hllm_tensor;

/* ---- Library ---------------------------------------------------------------------------------------------------- */

/* HLLM_ABI_MAJOR * 65536 + HLLM_ABI_MINOR of the loaded library. */
HLLM_API uint32_t hllm_abi_version(void);

/* Text of the last error on the calling thread, "" if there was none; valid until the thread's next call. */
HLLM_API const char *hllm_error_message(void);

/* One line for people and manifests: version, instruction set, GEMM library and its kernel set. Static storage. */
HLLM_API const char *hllm_build_info(void);

/* The process-wide team of compute threads. count 0: as many as the process may use (affinity and cgroup limits).
 * Waits for running operations. Results do not depend on it. */
HLLM_API int32_t hllm_threads_set(int32_t count);
HLLM_API int32_t hllm_threads_get(void);

/* Bytes held for buffers, weights, plans and scratch of all contexts of a device. */
HLLM_API int32_t hllm_live_bytes(const char *device, int64_t *bytes);

/* Refuses what would take live_bytes of a device above `bytes`: HLLM_OUT_OF_MEMORY, with sizes. 0: no limit. */
HLLM_API int32_t hllm_memory_limit_set(const char *device, int64_t bytes);

/* Bytes that the device can still give: of a GPU its free memory, on the CPU what the system calls available, or what the
 * process's control group leaves where that is less. */
HLLM_API int32_t hllm_memory_available(const char *device, int64_t *bytes);

/* One line for people: processor or card, its memory, driver and library versions, who computes attention. Valid until the
 * thread's next call of this function. */
HLLM_API int32_t hllm_device_info(const char *device, const char **text);

/* HLLM_OK if the device computes `operation` ("linear_forward": a function of this header without "hllm_") on activations of
 * this dtype, else HLLM_UNSUPPORTED and a message that says why. head_width: of attention; 0 elsewhere. */
HLLM_API int32_t hllm_supports(const char *device, const char *operation, int32_t dtype, int32_t head_width);

/* ---- Context ---------------------------------------------------------------------------------------------------- */

/* device: "cpu", "cuda" or "cuda-emulated". Plugins lie beside this library, or in the folder that the environment variable
 * HLLM_PLUGIN_PATH names. A device that cannot be had is HLLM_UNSUPPORTED, and the message says why. */
HLLM_API int32_t hllm_context_create(const char *device, hllm_context **context);
/* Waits for the context's work; a graph that it is capturing is given up. */
HLLM_API int32_t hllm_context_destroy(hllm_context *context);
/* Waits for all work of the context and reports late faults. */
HLLM_API int32_t hllm_context_synchronize(hllm_context *context);

/* An event marks a point in the work of a context. record: after all that has been enqueued; may be repeated. wait: what the
 * context enqueues from here on waits for the event, on the device. synchronize: the caller waits. elapsed: time between two
 * events, waits for `end`. On the CPU, events are times. */
HLLM_API int32_t hllm_event_create(hllm_context *context, hllm_event **event);
HLLM_API int32_t hllm_event_destroy(hllm_event *event);
HLLM_API int32_t hllm_event_record(hllm_context *context, hllm_event *event);
HLLM_API int32_t hllm_event_wait(hllm_context *context, hllm_event *event);
HLLM_API int32_t hllm_event_synchronize(hllm_event *event);
HLLM_API int32_t hllm_event_elapsed(hllm_event *begin, hllm_event *end, double *seconds);

/* Between begin and end nothing runs: the context's calls are kept as a graph, which then launches as one, on this context.
 * A launch reads tensors and plans as they are then: new values are written, and plans updated, in between. The graph keeps
 * what its calls use alive, destroyed or not. While capturing, buffer_write, buffer_read, plan_create, plan_update, events,
 * graph_launch and synchronize are refused. Begin waits for the context's work. On the CPU: HLLM_UNSUPPORTED. */
HLLM_API int32_t hllm_graph_begin_capture(hllm_context *context);
HLLM_API int32_t hllm_graph_end_capture(hllm_context *context, hllm_graph **graph);
HLLM_API int32_t hllm_graph_launch(hllm_context *context, hllm_graph *graph);
HLLM_API int32_t hllm_graph_destroy(hllm_graph *graph);

/* ---- Buffers ---------------------------------------------------------------------------------------------------- */

/* bytes > 0, zero-filled, aligned to 64. A buffer outlives its context. */
HLLM_API int32_t hllm_buffer_create(hllm_context *context, int64_t bytes, hllm_buffer **buffer);
/* Wraps host memory without copying (a mapped file's pages); the caller keeps it alive until destroy. Read-only: as an
 * output it is refused. */
HLLM_API int32_t hllm_buffer_wrap_host(hllm_context *context, const void *host, int64_t bytes, hllm_buffer **buffer);
HLLM_API int32_t hllm_buffer_destroy(hllm_buffer *buffer);
/* Copies between host memory and [offset, offset + bytes) of the buffer. On return a read is complete, and after a write the
 * host memory is free for other use, while the bytes arrive in the order of the context's work. */
HLLM_API int32_t hllm_buffer_write(hllm_context *context, hllm_buffer *buffer, int64_t offset, const void *host, int64_t bytes);
HLLM_API int32_t hllm_buffer_read(hllm_context *context, void *host, hllm_buffer *buffer, int64_t offset, int64_t bytes);

/* Sets every element. f32 and i32 (value rounded towards zero). */
HLLM_API int32_t hllm_fill(hllm_context *context, const hllm_tensor *out, float value);
/* Copies between equal shapes; f32 and bf16 in any combination (rounding to nearest even), i32 to i32. */
HLLM_API int32_t hllm_convert(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in);

/* ---- Matrix products -------------------------------------------------------------------------------------------- */

/* c[m,n] = op(a) op(b), or c += with accumulate; op transposes when its flag is not 0. Rank 2. c is an
 * activation, and so are a and b, of one dtype. */
HLLM_API int32_t hllm_matmul(hllm_context *context, const hllm_tensor *c, const hllm_tensor *a, const hllm_tensor *b,
                             int32_t transpose_a, int32_t transpose_b, int32_t accumulate);

/* A weight matrix [N,K] as a linear layer uses it. storage f32: a view of `source` (f32), which must outlive it;
 * storage bf16: a view of a bf16 source, or an own rounded copy of an f32 one. */
HLLM_API int32_t hllm_weight_create(hllm_context *context, const hllm_tensor *source, int32_t storage, hllm_weight **weight);
HLLM_API int32_t hllm_weight_destroy(hllm_weight *weight);
/* Keeps a second copy in the order in which hllm_linear_forward reads it fastest; for weights that stay as they are. bf16
 * weights then take x rounded to bf16 where the processor multiplies bf16 itself. A device that has no such order does
 * nothing. After it the source may be destroyed: forward products go on, and linear_backward_input, refresh and pack are
 * refused where they would read it. */
HLLM_API int32_t hllm_weight_pack(hllm_context *context, hllm_weight *weight);
/* Takes over new values of the source: call it after the source was written (an optimiser step). */
HLLM_API int32_t hllm_weight_refresh(hllm_context *context, hllm_weight *weight);

/* y[T,N] = x[T,K] w^T, or y += with accumulate (the residual stream). x and y are activations, each of its own dtype; a bf16 x
 * needs a weight of bf16 storage. */
HLLM_API int32_t hllm_linear_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *x, hllm_weight *weight,
                                     int32_t accumulate);
/* dx[T,K] = dy[T,N] w, or += with accumulate. dx and dy are activations, as above. */
HLLM_API int32_t hllm_linear_backward_input(hllm_context *context, const hllm_tensor *dx, const hllm_tensor *dy,
                                            hllm_weight *weight, int32_t accumulate);
/* dweight[N,K] += dy[T,N]^T x[T,K]; dy and x are activations of one dtype, dweight is f32. */
HLLM_API int32_t hllm_linear_backward_weight(hllm_context *context, const hllm_tensor *dweight, const hllm_tensor *dy,
                                             const hllm_tensor *x);

/* ---- Rows ------------------------------------------------------------------------------------------------------- */

/* out[t] = ids[t] >= 0 ? table[ids[t]] : special. out [T,D], ids i32 [T], table [V,D] f32 or bf16, special [D] or NULL (then
 * every id must be >= 0). An id outside the table is HLLM_INVALID_ARGUMENT. */
HLLM_API int32_t hllm_embedding_forward(hllm_context *context, const hllm_tensor *out, const hllm_tensor *ids,
                                        const hllm_tensor *table, const hllm_tensor *special);
/* dtable[ids[t]] += dout[t], dspecial += dout[t] where ids[t] < 0. Both may be NULL. Added in the order of t. */
HLLM_API int32_t hllm_embedding_backward(hllm_context *context, const hllm_tensor *dtable, const hllm_tensor *dspecial,
                                         const hllm_tensor *dout, const hllm_tensor *ids);
/* out[n] = in[index[n]]; out [N,D], in [R,D], index i32 [N]. out and in are activations of one dtype. */
HLLM_API int32_t hllm_gather_rows(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in,
                                  const hllm_tensor *index);
/* out[index[n]] = in[n] for distinct index[n]; other rows keep their values. out [R,D] f32 or bf16, in [N,D] f32 or bf16,
 * index i32 [N]: new keys and values into a cache. */
HLLM_API int32_t hllm_scatter_rows(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in,
                                   const hllm_tensor *index);
/* out[index[n]] += in[n], in the order of n: the gradient of hllm_gather_rows. */
HLLM_API int32_t hllm_scatter_add_rows(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in,
                                       const hllm_tensor *index);
/* out[s] = mean of in[rows[j]], offsets[s] <= j < offsets[s+1] (at least one): mean pooling over possibly shared rows.
 * out [S,D], in [T,D], offsets i32 [S+1], rows i32 [offsets[S]]. */
HLLM_API int32_t hllm_segment_mean_forward(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in,
                                           const hllm_tensor *offsets, const hllm_tensor *rows);
/* Overwrites din [T,D]: rows that no segment uses become 0. */
HLLM_API int32_t hllm_segment_mean_backward(hllm_context *context, const hllm_tensor *din, const hllm_tensor *dout,
                                            const hllm_tensor *offsets, const hllm_tensor *rows);
/* out[t] = in[t] / |in[t]|; a zero row stays zero. [T,D]; in place allowed. */
HLLM_API int32_t hllm_normalize_rows(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in);
/* out = a * b element by element, or += with accumulate. [T,D]; in place allowed. Row stride 0 in a or b: one row for all. */
HLLM_API int32_t hllm_mul(hllm_context *context, const hllm_tensor *out, const hllm_tensor *a, const hllm_tensor *b,
                          int32_t accumulate);

/* ---- Layers ----------------------------------------------------------------------------------------------------- */

/* y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps). x, y [T,D], weight [D]; saved_rstd [T] may be NULL. y is an
 * activation; x is f32. */
HLLM_API int32_t hllm_rmsnorm_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *saved_rstd,
                                      const hllm_tensor *x, const hllm_tensor *weight, float eps);
/* dx [T,D] (added to with accumulate: the residual stream), dweight [D] += (may be NULL). dy is an activation. */
HLLM_API int32_t hllm_rmsnorm_backward(hllm_context *context, const hllm_tensor *dx, const hllm_tensor *dweight,
                                       const hllm_tensor *dy, const hllm_tensor *saved_rstd, const hllm_tensor *x,
                                       const hllm_tensor *weight, int32_t accumulate);

/* y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps). x, y [T,D], weight, bias [D]; saved [T,2]: mean and
 * rstd of each row, may be NULL. y is an activation; x is f32. Since 1.3, as all up to hllm_gelu_backward. */
HLLM_API int32_t hllm_layernorm_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *saved,
                                        const hllm_tensor *x, const hllm_tensor *weight, const hllm_tensor *bias, float eps);
/* dx [T,D] (added to with accumulate), dweight [D] += (may be NULL). dy is an activation; hllm_bias_backward of it is dbias. */
HLLM_API int32_t hllm_layernorm_backward(hllm_context *context, const hllm_tensor *dx, const hllm_tensor *dweight,
                                         const hllm_tensor *dy, const hllm_tensor *saved, const hllm_tensor *x,
                                         const hllm_tensor *weight, int32_t accumulate);

/* y[t] += bias, in place: what a product lacks that has one. y [T,N] is an activation, bias [N] f32. */
HLLM_API int32_t hllm_bias_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *bias);
/* dbias[N] += sum of dy[t], in a fixed order. dy [T,N] is an activation. */
HLLM_API int32_t hllm_bias_backward(hllm_context *context, const hllm_tensor *dbias, const hllm_tensor *dy);

/* y = x * (1 + erf(x / sqrt(2))) / 2; x, y [T,F]. Activations of one dtype, also below. */
HLLM_API int32_t hllm_gelu_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *x);
HLLM_API int32_t hllm_gelu_backward(hllm_context *context, const hllm_tensor *dx, const hllm_tensor *dy, const hllm_tensor *x);

/* Rotary position embedding, in place, halves convention (i, i + Dh/2). x [T, heads, Dh] (strided rows allowed), positions
 * i32 [T], table [P,Dh]: Dh/2 cosines, then Dh/2 sines of each position. inverse != 0 rotates back: the gradient. x is an
 * activation. */
HLLM_API int32_t hllm_rope(hllm_context *context, const hllm_tensor *x, const hllm_tensor *positions, const hllm_tensor *table,
                           int32_t inverse);

/* What a layer with a cache does between its product and attention, in one pass: q turns in place as hllm_rope turns it, and
 * for distinct index[t], keys[index[t]] = k[t] turned and values[index[t]] = v[t]; other rows keep their values. q, k and v
 * are activations of one dtype; keys and values are f32 or bf16, both alike. Since 1.2. */
typedef struct hllm_rope_scatter_args {
    uint32_t struct_size;         /* sizeof(hllm_rope_scatter_args) */
    int32_t reserved;             /* 0 */
    const hllm_tensor *q;         /* [T, H, Dh], or NULL: keys and values alone */
    const hllm_tensor *keys;      /* [R, Hkv, Dh] */
    const hllm_tensor *values;    /* [R, Hkv, Dh] */
    const hllm_tensor *k;         /* [T, Hkv, Dh] */
    const hllm_tensor *v;         /* [T, Hkv, Dh] */
    const hllm_tensor *positions; /* i32 [T] */
    const hllm_tensor *table;     /* [P, Dh], as of hllm_rope */
    const hllm_tensor *index;     /* i32 [T] */
} hllm_rope_scatter_args;

HLLM_API int32_t hllm_rope_scatter(hllm_context *context, const hllm_rope_scatter_args *args);

/* y = silu(gate) * up; gate_up [T,2F]: gate, then up; y [T,F]. Activations of one dtype, also below. */
HLLM_API int32_t hllm_swiglu_forward(hllm_context *context, const hllm_tensor *y, const hllm_tensor *gate_up);
HLLM_API int32_t hllm_swiglu_backward(hllm_context *context, const hllm_tensor *dgate_up, const hllm_tensor *dy,
                                      const hllm_tensor *gate_up);

/* ---- Attention by plan ------------------------------------------------------------------------------------------ */

/* A query segment is a run of consecutive query rows; it sees an ordered list of key spans. Its keys have logical positions
 * along that list; a causal segment is aligned with the end of it: query i of n sees the first L - n + 1 + i of L keys.
 * Segments are disjoint and in ascending order; a query row in no segment gets output 0. Host arrays, copied. */
typedef struct hllm_plan_args {
    uint32_t struct_size; /* sizeof(hllm_plan_args) */
    int32_t causal;       /* 0: every query of a segment sees all its keys */
    int32_t query_rows;   /* rows of q */
    int32_t key_rows;     /* rows of k and v */
    int32_t segments;
    int32_t spans;                /* length of the two arrays below */
    const int32_t *segment_begin; /* [segments] */
    const int32_t *segment_length;
    const int32_t *span_offsets; /* [segments + 1]: the spans of segment s are span_offsets[s] .. span_offsets[s+1] */
    const int32_t *span_begin;   /* [spans], first key row */
    const int32_t *span_length;
} hllm_plan_args;

HLLM_API int32_t hllm_plan_create(hllm_context *context, const hllm_plan_args *args, hllm_plan **plan);
/* New segments and spans in the same plan, at most as many of each as args held when it was created (an empty span holds a
 * place); causal, query_rows and key_rows stay. A captured graph sees them. No other context may use the plan meanwhile. */
HLLM_API int32_t hllm_plan_update(hllm_context *context, hllm_plan *plan, const hllm_plan_args *args);
HLLM_API int32_t hllm_plan_destroy(hllm_plan *plan);

/* out = softmax(scale * q k^T) v by segments. q, out [Tq, H, Dh]; k, v [Tk, Hkv, Dh] with H a multiple of Hkv (query head h
 * reads key head h / (H/Hkv)); k is stored rotated. saved_lse [H, Tq]: log-sum-exp, may be NULL without a backward.
 * q, k, v, out and their gradients are activations of one dtype; saved_lse is f32. On the CPU, k and v may also be bf16 (a
 * cache) beside an f32 q. */
HLLM_API int32_t hllm_attention_forward(hllm_context *context, const hllm_tensor *out, const hllm_tensor *saved_lse,
                                        const hllm_tensor *q, const hllm_tensor *k, const hllm_tensor *v, hllm_plan *plan,
                                        float scale);

typedef struct hllm_attention_backward_args {
    uint32_t struct_size; /* sizeof(hllm_attention_backward_args) */
    float scale;
    const hllm_tensor *dq; /* [Tq, H, Dh] */
    const hllm_tensor *dk; /* [Tk, Hkv, Dh]; summed over all segments that read a row, in a fixed order; 0 where none does */
    const hllm_tensor *dv;
    const hllm_tensor *saved_out; /* forward's out */
    const hllm_tensor *saved_lse;
    const hllm_tensor *dout;
    const hllm_tensor *q;
    const hllm_tensor *k;
    const hllm_tensor *v;
    hllm_plan *plan;
} hllm_attention_backward_args;

HLLM_API int32_t hllm_attention_backward(hllm_context *context, const hllm_attention_backward_args *args);

/* ---- Loss ------------------------------------------------------------------------------------------------------- */

/* Layout of hllm_infonce_args.metrics: sums over the positions; divide by the number of positions. */
enum hllm_infonce_metric {
    HLLM_INFONCE_LOSS = 0,    /* cross entropy */
    HLLM_INFONCE_SAMPLES = 1, /* unmasked logits, the target included */
    HLLM_INFONCE_TOP1 = 2,    /* 1 where the target is among the k best */
    HLLM_INFONCE_TOP5 = 3,
    HLLM_INFONCE_TOP10 = 4,
    HLLM_INFONCE_TOP50 = 5,
    HLLM_INFONCE_TOP100 = 6,
    HLLM_INFONCE_METRICS = 7
};

/* Cosine InfoNCE with shared negatives (HLLM section 3.2): per position t
 *   logits = exp(logit_scale) * [cos(u_t, p_t), cos(u_t, n_1), ..., cos(u_t, n_M)],  loss_t = -log softmax(logits)_0,
 * where negative j is left out if cos(p_t, n_j) > threshold or negative_ids[j] == target_ids[t].
 * Forward only when du is NULL; else all gradients (of total loss / positions) at once, in memory O(tile * M). */
typedef struct hllm_infonce_args {
    uint32_t struct_size;            /* sizeof(hllm_infonce_args) */
    float threshold;                 /* 0.99 in the paper's code */
    int64_t positions;               /* divisor of the gradients: the positions of the whole (global) batch */
    const hllm_tensor *metrics;      /* f32 [HLLM_INFONCE_METRICS], overwritten */
    const hllm_tensor *du;           /* [T,D] overwritten, or NULL: forward only */
    const hllm_tensor *dp;           /* [T,D] overwritten */
    const hllm_tensor *dn;           /* [M,D] overwritten */
    const hllm_tensor *dlogit_scale; /* [1] added to; may be NULL */
    const hllm_tensor *u;            /* [T,D] predictions; u, p and n are activations of one dtype, all else is f32 */
    const hllm_tensor *p;            /* [T,D] targets */
    const hllm_tensor *n;            /* [M,D] negatives */
    const hllm_tensor *target_ids;   /* i32 [T]; with negative_ids, or both NULL */
    const hllm_tensor *negative_ids; /* i32 [M] */
    const hllm_tensor *logit_scale;  /* [1], natural logarithm */
} hllm_infonce_args;

HLLM_API int32_t hllm_infonce(hllm_context *context, const hllm_infonce_args *args);

/* Binary cross entropy of logits z and labels y (0 or 1): loss [1] = sum of log(1 + exp(z)) - y z, overwritten. dlogits [T]
 * = (sigmoid(z) - y) / positions, overwritten; may be NULL. logits, labels [T] f32. positions: those of the global batch. */
HLLM_API int32_t hllm_bce(hllm_context *context, const hllm_tensor *loss, const hllm_tensor *dlogits, const hllm_tensor *logits,
                          const hllm_tensor *labels, int64_t positions);

/* ---- Optimiser -------------------------------------------------------------------------------------------------- */

/* out[0] = sqrt(sum of squares) of a contiguous rank-1 tensor, accumulated in double. */
HLLM_API int32_t hllm_norm(hllm_context *context, const hllm_tensor *out, const hllm_tensor *in);
/* in = min(max(in, low), high), in place. */
HLLM_API int32_t hllm_clamp(hllm_context *context, const hllm_tensor *in, float low, float high);

/* AdamW (Loshchilov & Hutter) over flat contiguous f32 tensors of one length:
 *   g = gradient * gradient_scale; p *= 1 - lr * weight_decay; m, v = moments; p -= lr * m_hat / (sqrt(v_hat) + eps). */
typedef struct hllm_adamw_args {
    uint32_t struct_size; /* sizeof(hllm_adamw_args) */
    float lr;
    float beta1;
    float beta2;
    float eps;
    float weight_decay;
    float gradient_scale; /* min(1, clip / norm) */
    int32_t reserved;     /* 0 */
    int64_t step;         /* 1 for the first update */
    const hllm_tensor *parameters;
    const hllm_tensor *gradients;
    const hllm_tensor *moment1;
    const hllm_tensor *moment2;
} hllm_adamw_args;

HLLM_API int32_t hllm_adamw(hllm_context *context, const hllm_adamw_args *args);

/* ---- Ranking ---------------------------------------------------------------------------------------------------- */

/* The K best rows of table [N,D] by inner product for each query [B,D], best first, ties to the lower row. scores [B,K],
 * rows i32 [B,K]; where fewer than K are left: score -inf, row -1. Rows excluded_rows[excluded_offsets[b] ..
 * excluded_offsets[b+1]) are left out (i32 tensors, or both NULL). Memory O(tile), never B x N. queries and table are
 * activations of one dtype, also below. On a GPU K goes up to 4096. */
HLLM_API int32_t hllm_topk(hllm_context *context, const hllm_tensor *scores, const hllm_tensor *rows,
                           const hllm_tensor *queries, const hllm_tensor *table, const hllm_tensor *excluded_offsets,
                           const hllm_tensor *excluded_rows);
/* ranks i32 [B] = 1 + number of rows that score strictly higher than targets[b] (i32 [B]). Excluded rows do not count; a
 * target that is itself excluded ranks N + 1, a certain miss. */
HLLM_API int32_t hllm_rank(hllm_context *context, const hllm_tensor *ranks, const hllm_tensor *queries,
                           const hllm_tensor *table, const hllm_tensor *targets, const hllm_tensor *excluded_offsets,
                           const hllm_tensor *excluded_rows);

#ifdef __cplusplus
}
#endif
#endif
