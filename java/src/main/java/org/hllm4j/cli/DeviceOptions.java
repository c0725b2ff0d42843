package org.hllm4j.cli;

import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** Where and in what precision is computed. */
final class DeviceOptions {
    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(names = "--device", paramLabel = "DEVICE", description = "What computes: cpu. Default: ${DEFAULT-VALUE}.")
    private String device = "cpu";

    private int threads;
    private DType storage = DType.F32;

    @Option(
            names = "--threads",
            paramLabel = "N",
            description = "Compute threads; 0: as many as the process may use. Results do not change. Default: 0.")
    void threads(int count) {
        if (count < 0) {
            throw new ParameterException(spec.commandLine(), "--threads is " + count + ", expected at least 0");
        }
        threads = count;
    }

    @Option(
            names = "--dtype",
            paramLabel = "TYPE",
            description = "How matrices are stored: f32, or bf16 (half the memory, for inference only). Default: f32.")
    void dtype(DType type) {
        if (type == DType.I32) {
            throw new ParameterException(spec.commandLine(), "--dtype is i32, expected f32 or bf16");
        }
        storage = type;
    }

    /** Opens the device; the caller closes it. */
    Context open() {
        useThreads();
        return Context.open(device);
    }

    /** Applies --threads, which holds for the whole process. */
    void useThreads() {
        Context.threads(threads);
    }

    String device() {
        return device;
    }

    DType storage() {
        return storage;
    }

    void requireTraining() {
        if (storage != DType.F32) {
            throw new HllmException("--dtype bf16 stores weights for inference; training keeps float32 weights: use "
                    + "--dtype f32 here, and bf16 with evaluate, recommend or embed");
        }
    }
}
