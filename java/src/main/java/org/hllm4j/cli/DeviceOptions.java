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

    @Option(
            names = "--device",
            paramLabel = "DEVICE",
            description = "What computes: cpu. Default: ${DEFAULT-VALUE}.")
    private String device = "cpu";

    @Option(
            names = "--threads",
            paramLabel = "N",
            description = "Compute threads; 0: as many as the process may use. Results do not change. Default:"
                    + " ${DEFAULT-VALUE}.")
    private int threads;

    @Option(
            names = "--dtype",
            paramLabel = "TYPE",
            description = "How matrices are stored: f32, or bf16 (half the memory, for inference only). Default: f32.")
    private DType dtype = DType.F32;

    /** Opens the device; the caller closes it. */
    Context open() {
        useThreads();
        return Context.open(device);
    }

    /** Applies --threads, which holds for the whole process. */
    void useThreads() {
        if (threads < 0) {
            throw new ParameterException(spec.commandLine(), "--threads is " + threads + ", expected at least 0");
        }
        Context.threads(threads);
    }

    String device() {
        return device;
    }

    DType storage() {
        if (dtype == DType.I32) {
            throw new ParameterException(spec.commandLine(), "--dtype is i32, expected f32 or bf16");
        }
        return dtype;
    }

    void requireTraining() {
        if (storage() != DType.F32) {
            throw new HllmException("--dtype bf16 stores weights for inference; training keeps float32 weights: use "
                    + "--dtype f32 here, and bf16 with evaluate, recommend or embed");
        }
    }
}
