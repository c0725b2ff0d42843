/*
 * Three texts through a small Llama with random weights, in C: all in one packed batch, then each alone. An attention plan
 * keeps the texts of a batch apart; an embedding is the last state of a text, at its learned [ITEM] token (id -1). Prints
 * the embeddings, and exits with 1 if a text's embedding depends on its company.
 *
 * CMakeLists.txt, beside this file, shows how to build it.
 */
#include <hllm.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 101, HIDDEN = 48, HEADS = 6, KV_HEADS = 2, WIDTH = 8, FEED = 80, LAYERS = 3, POSITIONS = 32, TEXTS = 3 };
enum { Q = HEADS * WIDTH, KV = KV_HEADS * WIDTH, QKV = Q + 2 * KV };

static const int32_t tokens[] = {17, 3, 58, 96, 4, 21, -1, /**/ 8, 77, -1, /**/ 40, 41, 42, 5, 99, 0, 12, 63, 7, 2, -1};
static const int32_t lengths[TEXTS] = {7, 3, 11};

static hllm_context *context;

static void check(int32_t status, const char *what) {
    if (status == HLLM_OK) return;
    fprintf(stderr, "%s\n  status %d: %s\n", what, (int)status, hllm_error_message());
    exit(1);
}
#define CHECK(call) check(call, #call)

/* ---- Tensors: a buffer each, or a window onto the buffer of another ---- */

static hllm_tensor view(hllm_tensor of, int64_t first, int32_t rank, const int64_t *shape, int64_t row_stride) {
    int32_t i;
    of.offset += first * 4;
    of.rank = rank;
    memcpy(of.shape, shape, sizeof of.shape);
    of.stride[rank - 1] = 1;
    for (i = rank - 1; i > 0; i--) of.stride[i - 1] = of.stride[i] * shape[i];
    if (row_stride > 0) of.stride[0] = row_stride;
    return of;
}

static hllm_tensor tensor(int32_t dtype, int64_t rows, int64_t columns, const void *values) {
    const int64_t shape[4] = {rows, columns, 1, 1}, bytes = rows * columns * 4;
    hllm_tensor t;
    memset(&t, 0, sizeof t);
    t.struct_size = sizeof t;
    t.dtype = dtype;
    CHECK(hllm_buffer_create(context, bytes, &t.buffer));
    if (values != NULL) CHECK(hllm_buffer_write(context, t.buffer, 0, values, bytes));
    return view(t, 0, 2, shape, 0);
}

static hllm_tensor vector(int32_t dtype, int64_t n, const void *values) {
    const int64_t shape[4] = {n, 1, 1, 1};
    return view(tensor(dtype, 1, n, values), 0, 1, shape, 0);
}

static hllm_tensor random_tensor(int64_t rows, int64_t columns, float deviation) {
    static uint64_t state = 20240912;
    float *values = malloc((size_t)(rows * columns) * sizeof *values);
    hllm_tensor t;
    int64_t i;
    if (values == NULL) exit(1);
    for (i = 0; i < rows * columns; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        values[i] = ((float)(state >> 40) / 8388608.0f - 1.0f) * 1.7320508f * deviation;
    }
    t = tensor(HLLM_F32, rows, columns, values);
    free(values);
    return t;
}

/* ---- The model ---- */

typedef struct {
    hllm_tensor norm1, norm2, sources[4];
    hllm_weight *qkv, *output, *gate_up, *down;
} layer;

typedef struct {
    hllm_tensor words, item, norm, rotations;
    layer layers[LAYERS];
} model;

static hllm_weight *weight(hllm_tensor *source, int64_t outputs, int64_t inputs) {
    hllm_weight *w = NULL;
    *source = random_tensor(outputs, inputs, 1 / sqrtf((float)inputs));
    CHECK(hllm_weight_create(context, source, HLLM_F32, &w));
    return w;
}

static hllm_tensor ones(int64_t n) {
    hllm_tensor t = vector(HLLM_F32, n, NULL);
    CHECK(hllm_fill(context, &t, 1));
    return t;
}

static void open_model(model *m) {
    static float table[POSITIONS][WIDTH];
    const int64_t item[4] = {HIDDEN, 1, 1, 1};
    int l, p, i;
    for (p = 0; p < POSITIONS; p++)
        for (i = 0; i < WIDTH / 2; i++) {
            const double angle = p * pow(10000.0, -2.0 * i / WIDTH);
            table[p][i] = (float)cos(angle);
            table[p][WIDTH / 2 + i] = (float)sin(angle);
        }
    m->rotations = tensor(HLLM_F32, POSITIONS, WIDTH, table);
    m->words = random_tensor(VOCABULARY, HIDDEN, 1);
    m->item = view(random_tensor(1, HIDDEN, 1), 0, 1, item, 0);
    m->norm = ones(HIDDEN);
    for (l = 0; l < LAYERS; l++) {
        layer *a = &m->layers[l];
        a->norm1 = ones(HIDDEN);
        a->norm2 = ones(HIDDEN);
        a->qkv = weight(&a->sources[0], QKV, HIDDEN);
        a->output = weight(&a->sources[1], HIDDEN, Q);
        a->gate_up = weight(&a->sources[2], 2 * FEED, HIDDEN);
        a->down = weight(&a->sources[3], HIDDEN, FEED);
    }
}

static void close_model(model *m) {
    int l, i;
    for (l = 0; l < LAYERS; l++) {
        layer *a = &m->layers[l];
        hllm_weight *const weights[] = {a->qkv, a->output, a->gate_up, a->down};
        for (i = 0; i < 4; i++) {
            CHECK(hllm_weight_destroy(weights[i]));
            CHECK(hllm_buffer_destroy(a->sources[i].buffer));
        }
        CHECK(hllm_buffer_destroy(a->norm1.buffer));
        CHECK(hllm_buffer_destroy(a->norm2.buffer));
    }
    CHECK(hllm_buffer_destroy(m->words.buffer));
    CHECK(hllm_buffer_destroy(m->item.buffer));
    CHECK(hllm_buffer_destroy(m->norm.buffer));
    CHECK(hllm_buffer_destroy(m->rotations.buffer));
}

/* ---- Inference: embeddings [texts][HIDDEN] of texts whose tokens lie one behind the other ---- */

static void embed(const model *m, const int32_t *ids, const int32_t *text_lengths, int32_t texts, float *embeddings) {
    int32_t begins[TEXTS], offsets[TEXTS + 1], ends[TEXTS], positions[TEXTS * POSITIONS];
    int32_t T = 0, s, k;
    int l;
    hllm_plan_args args;
    hllm_plan *plan = NULL;

    /* Each text is a segment of queries that sees one span of keys: its own rows. Positions start at 0 in each. */
    for (s = 0; s < texts; s++) {
        begins[s] = T;
        offsets[s] = s;
        for (k = 0; k < text_lengths[s]; k++) positions[T++] = k;
        ends[s] = T - 1;
    }
    offsets[texts] = texts;
    memset(&args, 0, sizeof args);
    args.struct_size = sizeof args;
    args.causal = 1;
    args.query_rows = T;
    args.key_rows = T;
    args.segments = texts;
    args.spans = texts;
    args.segment_begin = begins;
    args.segment_length = text_lengths;
    args.span_offsets = offsets;
    args.span_begin = begins;
    args.span_length = text_lengths;
    CHECK(hllm_plan_create(context, &args, &plan));

    {
        const int64_t q_shape[4] = {T, HEADS, WIDTH, 1}, kv_shape[4] = {T, KV_HEADS, WIDTH, 1}, flat[4] = {T, Q, 1, 1};
        hllm_tensor id = vector(HLLM_I32, T, ids), position = vector(HLLM_I32, T, positions),
                    end = vector(HLLM_I32, texts, ends), x = tensor(HLLM_F32, T, HIDDEN, NULL),
                    normed = tensor(HLLM_F32, T, HIDDEN, NULL), qkv = tensor(HLLM_F32, T, QKV, NULL),
                    seen = view(tensor(HLLM_F32, T, Q, NULL), 0, 3, q_shape, 0), gate_up = tensor(HLLM_F32, T, 2 * FEED, NULL),
                    fed = tensor(HLLM_F32, T, FEED, NULL), out = tensor(HLLM_F32, texts, HIDDEN, NULL);
        /* Queries, keys and values lie side by side in the rows of one product. */
        hllm_tensor q = view(qkv, 0, 3, q_shape, QKV), key = view(qkv, Q, 3, kv_shape, QKV),
                    value = view(qkv, Q + KV, 3, kv_shape, QKV), seen_rows = view(seen, 0, 2, flat, 0);
        hllm_tensor *const all[] = {&id, &position, &end, &x, &normed, &qkv, &seen, &gate_up, &fed, &out};

        CHECK(hllm_embedding_forward(context, &x, &id, &m->words, &m->item));
        for (l = 0; l < LAYERS; l++) {
            const layer *a = &m->layers[l];
            CHECK(hllm_rmsnorm_forward(context, &normed, NULL, &x, &a->norm1, 1e-5f));
            CHECK(hllm_linear_forward(context, &qkv, &normed, a->qkv, 0));
            CHECK(hllm_rope(context, &q, &position, &m->rotations, 0));
            CHECK(hllm_rope(context, &key, &position, &m->rotations, 0));
            CHECK(hllm_attention_forward(context, &seen, NULL, &q, &key, &value, plan, 1 / sqrtf(WIDTH)));
            CHECK(hllm_linear_forward(context, &x, &seen_rows, a->output, 1)); /* x += */
            CHECK(hllm_rmsnorm_forward(context, &normed, NULL, &x, &a->norm2, 1e-5f));
            CHECK(hllm_linear_forward(context, &gate_up, &normed, a->gate_up, 0));
            CHECK(hllm_swiglu_forward(context, &fed, &gate_up));
            CHECK(hllm_linear_forward(context, &x, &fed, a->down, 1)); /* x += */
        }
        CHECK(hllm_rmsnorm_forward(context, &normed, NULL, &x, &m->norm, 1e-5f));
        CHECK(hllm_gather_rows(context, &out, &normed, &end));
        CHECK(hllm_buffer_read(context, embeddings, out.buffer, 0, (int64_t)texts * HIDDEN * 4));

        for (l = 0; l < (int)(sizeof all / sizeof *all); l++) CHECK(hllm_buffer_destroy(all[l]->buffer));
    }
    CHECK(hllm_plan_destroy(plan));
}

int main(void) {
    static model m;
    static float packed[TEXTS][HIDDEN], alone[HIDDEN];
    const int32_t *text = tokens;
    int64_t bytes = -1;
    int s, i, failed = 0;

    printf("%s\n", hllm_build_info());
    CHECK(hllm_context_create("cpu", &context));
    open_model(&m);
    embed(&m, tokens, lengths, TEXTS, packed[0]);
    for (s = 0; s < TEXTS; s++) {
        float size = 0, difference = 0;
        embed(&m, text, &lengths[s], 1, alone);
        for (i = 0; i < HIDDEN; i++) {
            size = fmaxf(size, fabsf(alone[i]));
            difference = fmaxf(difference, fabsf(packed[s][i] - alone[i]));
        }
        printf("text %d of %2d tokens: %8.5f %8.5f %8.5f %8.5f ...; alone: at most %.1e apart\n", s + 1, (int)lengths[s],
               packed[s][0], packed[s][1], packed[s][2], packed[s][3], difference);
        failed |= !(size > 0.1f && difference <= 1e-5f * size);
        text += lengths[s];
    }
    close_model(&m);
    CHECK(hllm_context_destroy(context));
    CHECK(hllm_live_bytes("cpu", &bytes));
    if (bytes != 0) printf("%lld bytes were not freed\n", (long long)bytes);
    if (failed) printf("a text's embedding depends on the other texts of the batch\n");
    return failed || bytes != 0;
}
