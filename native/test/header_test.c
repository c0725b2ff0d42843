/* hllm.h in plain C11: the header compiles without a warning, and the library answers. */
#include <hllm.h>
#include <stdio.h>
#include <string.h>

#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, hllm_error_message()); \
            return 1;                                                                         \
        }                                                                                     \
    } while (0)

int main(void) {
    hllm_context *context = NULL;
    hllm_buffer *buffer = NULL;
    hllm_tensor tensor;
    float values[6];
    int64_t bytes = -1;
    int i;

    CHECK(hllm_abi_version() == HLLM_ABI_MAJOR * 65536u + HLLM_ABI_MINOR);
    CHECK(strlen(hllm_build_info()) > 0);
    CHECK(strcmp(hllm_error_message(), "") == 0);
    CHECK(hllm_context_create("cpu", &context) == HLLM_OK);
    CHECK(hllm_buffer_create(context, sizeof values, &buffer) == HLLM_OK);
    memset(&tensor, 0, sizeof tensor);
    tensor.struct_size = sizeof tensor;
    tensor.dtype = HLLM_F32;
    tensor.buffer = buffer;
    tensor.rank = 2;
    tensor.shape[0] = 2;
    tensor.shape[1] = 3;
    tensor.stride[0] = 3;
    tensor.stride[1] = 1;
    CHECK(hllm_fill(context, &tensor, 1.5f) == HLLM_OK);
    CHECK(hllm_buffer_read(context, values, buffer, 0, sizeof values) == HLLM_OK);
    for (i = 0; i < 6; i++) CHECK(values[i] == 1.5f);
    tensor.shape[0] = 3;
    CHECK(hllm_fill(context, &tensor, 1.5f) == HLLM_INVALID_ARGUMENT);
    CHECK(strstr(hllm_error_message(), "fill") != NULL);
    CHECK(hllm_buffer_destroy(buffer) == HLLM_OK);
    CHECK(hllm_context_destroy(context) == HLLM_OK);
    CHECK(hllm_live_bytes("cpu", &bytes) == HLLM_OK && bytes == 0);
    printf("%s\n", hllm_build_info());
    return 0;
}
