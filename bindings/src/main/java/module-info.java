/** Generated bindings of {@code hllm.h}; only the engine may see them. */
@SuppressWarnings("module") // org.hllm4j is built after this module
module org.hllm4j.bindings {
    exports org.hllm4j.bindings to
            org.hllm4j;
}
