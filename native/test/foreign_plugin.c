/* A plugin as another version might be: it fills what it knows, and its build does not match. */
#include <stdint.h>
#include <string.h>

struct plugin {
    uint32_t struct_size;
    char build[200];
    void *create;
};

#ifdef EXPORT
__attribute__((visibility("default")))
#endif
int32_t
hllm_plugin(struct plugin *plugin) {
    strcpy(plugin->build, "hllm 9.9.9, g++ 1.0");
    return 0;
}
