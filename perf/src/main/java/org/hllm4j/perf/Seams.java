package org.hllm4j.perf;

import java.util.List;
import java.util.concurrent.TimeUnit;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;

/** Where Java meets the native library, by JMH. */
@State(Scope.Thread)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
public class Seams {
    private Context context;
    private Ops ops;
    private Tensor one;
    private Tensor matrix;
    private int[][] tokens;

    @Setup
    public void open() {
        context = Context.open("cpu");
        ops = context.ops();
        one = context.zeros(DType.F32, 1);
        matrix = context.zeros(DType.F32, 64, 64);
        tokens = Items.invented(512, 4096, 1).tokens();
    }

    @TearDown
    public void close() {
        one.close();
        matrix.close();
        context.close();
    }

    /** A native operation that does nearly nothing: the call and its checks. */
    @Benchmark
    public void downcall() {
        ops.fill(one, 1);
    }

    /** A view of a tensor and its native descriptor. */
    @Benchmark
    public Tensor view() {
        return matrix.rows(1, 2);
    }

    /** Sorting and packing 512 items. */
    @Benchmark
    public PackedTokens pack512() {
        return TokenTrie.pack(tokens, true, true);
    }

    static void measure(Rows rows) {
        rows.section("jmh", "seams", () -> {
            try {
                var options = new OptionsBuilder()
                        .include("^" + Seams.class.getName() + "\\.")
                        .build();
                for (RunResult result : new Runner(options).run()) {
                    List<Double> seconds = result.getBenchmarkResults().stream()
                            .flatMap(fork -> fork.getIterationResults().stream())
                            .map(iteration -> iteration.getPrimaryResult().getScore() / 1e9)
                            .toList();
                    rows.add(Row.of("jmh", result.getPrimaryResult().getLabel(), "a call", Timing.of(seconds)));
                }
            } catch (RunnerException e) {
                throw new HllmException("JMH: " + e.getMessage(), e);
            }
        });
    }
}
