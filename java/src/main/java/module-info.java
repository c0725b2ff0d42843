/** HLLM recommendation: models, data, training and evaluation on the native kernels of libhllm. */
module org.hllm4j {
    requires org.hllm4j.bindings;
    requires ai.djl.tokenizers;
    requires com.fasterxml.jackson.databind;
    requires de.siegmar.fastcsv;

    exports org.hllm4j;
    exports org.hllm4j.data;
    exports org.hllm4j.engine;
    exports org.hllm4j.eval;
    exports org.hllm4j.model;
    exports org.hllm4j.nn;
    exports org.hllm4j.run;
    exports org.hllm4j.text;
    exports org.hllm4j.train;
    exports org.hllm4j.weights;
}
