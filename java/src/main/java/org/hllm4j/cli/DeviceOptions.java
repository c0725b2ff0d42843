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
            description = "What computes: cpu; cuda, a GPU; or cuda-emulated, the GPU's kernels run on the CPU, very"
                    + " slowly, for tests. Default: ${DEFAULT-VALUE}.")
    private String device = "cpu";

    private int threads;
    private DType dtype;
    private long memory;

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
            description =
                    "On a GPU, what it computes in: bf16 (training keeps float32 master weights) or f32. On the CPU,"
                            + " which computes in float32, how matrices are stored: f32, or bf16 (half the memory, for"
                            + " inference only). Default: bf16 on a GPU, f32 on the CPU.")
    void dtype(DType type) {
        if (type == DType.I32) {
            throw new ParameterException(spec.commandLine(), "--dtype is i32, expected f32 or bf16");
        }
        dtype = type;
    }

    @Option(
            names = "--memory",
            paramLabel = "SIZE",
            converter = Size.class,
            description = "The memory that the device can give this, as 20g; what needs more is refused. Default: what"
                    + " the system and the control group say is available.")
    void memory(long bytes) {
        if (bytes < 1) {
            throw new ParameterException(spec.commandLine(), "--memory is 0, expected a size as 20g");
        }
        memory = bytes;
    }

    /** Opens the device; the caller closes it. */
    Context open() {
        apply();
        return Context.open(device, activations());
    }

    /** Applies --threads and --memory, which hold for the whole process. */
    void apply() {
        Context.threads(threads);
        Context.assumeAvailable(memory);
    }

    String device() {
        return device;
    }

    /** Whether --dtype names this type. */
    boolean asksFor(DType type) {
        return dtype == type;
    }

    /** How matrices are stored that are not trained. */
    DType storage() {
        return dtype != null ? dtype : Context.defaultType(device);
    }

    /** What layers hand to one another. */
    DType activations() {
        return Context.activations(device, storage());
    }

    void requireTraining() {
        if (activations() == DType.F32 && storage() != DType.F32) {
            throw new HllmException("--dtype bf16 stores weights for inference; training keeps float32 weights: use "
                    + "--dtype f32 here, and bf16 with evaluate, recommend or embed");
        }
    }
}
