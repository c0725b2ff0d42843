/** HLLM recommendation: models, data, training and evaluation on the native kernels of libhllm. */
module org.hllm4j {
    requires org.hllm4j.bindings;
    requires ai.djl.tokenizers;
    requires com.fasterxml.jackson.databind;
    requires de.siegmar.fastcsv;
    requires info.picocli;
    requires jdk.httpserver;
    requires jdk.jfr;
    requires me.tongfei.progressbar;
    // Used by ai.djl.tokenizers, which is no module and cannot ask for them itself.
    requires com.google.gson;
    requires org.slf4j;

    exports org.hllm4j;
    exports org.hllm4j.data;
    exports org.hllm4j.engine;
    exports org.hllm4j.eval;
    exports org.hllm4j.http;
    exports org.hllm4j.model;
    exports org.hllm4j.nn;
    exports org.hllm4j.run;
    exports org.hllm4j.serve;
    exports org.hllm4j.text;
    exports org.hllm4j.train;
    exports org.hllm4j.weights;

    // The command line is no API; picocli fills its fields.
    opens org.hllm4j.cli to
            info.picocli;
}
