#include "abi/plugin.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace hllm {

// The folder of $HLLM_PLUGIN_PATH, else that of this library.
static std::string folder() {
    if (const char* path = std::getenv("HLLM_PLUGIN_PATH")) return path;
    Dl_info self;
    if (!dladdr(reinterpret_cast<void*>(&hllm_abi_version), &self) || !self.dli_fname) return ".";
    const std::string file = self.dli_fname;
    const auto slash = file.rfind('/');
    return slash == std::string::npos ? "." : file.substr(0, slash);
}

static Backend* load(const char* device) {
    std::string name = std::string("libhllm_") + device + ".so";
    std::replace(name.begin(), name.end(), '-', '_');
    const std::string file = folder() + "/" + name;
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(HLLM_UNSUPPORTED, "device '%s' needs its plugin: %s", device, dlerror());
    auto* fill = reinterpret_cast<int32_t (*)(Plugin*)>(dlsym(library, "hllm_plugin"));
    Plugin plugin{sizeof(Plugin), "", nullptr};
    const bool filled = fill && fill(&plugin) == HLLM_OK;
    if (!filled || std::strcmp(plugin.build, HLLM_BUILD_ID) != 0) {
        const std::string build = fill ? plugin.build : "no plugin at all";
        dlclose(library);
        fail(HLLM_UNSUPPORTED, "device '%s': %s is %s, expected a plugin of %s", device, file.c_str(), build.c_str(),
             HLLM_BUILD_ID);
    }
    prepare_exceptions();
    // From here on the library stays: an exception of its own may be on the way.
    return plugin.create();
}

Backend* plugin_backend(const char* device) {
    static std::mutex mutex;
    static std::map<std::string, Backend*> backends;
    std::lock_guard lock(mutex);
    Backend*& backend = backends[device];
    if (!backend) backend = load(device);
    return backend;
}

}  // namespace hllm
