package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.NativeException;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.Parameter;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.TensorSource;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/**
 * Numbers of golden/family_golden.py, every family by Hugging Face's own models in double precision, against the shared
 * and packed pass: item and user vectors, loss, every gradient; on every device that is there, in each type it computes in.
 */
class FamilyGoldenTest {
    private static final double TOLERANCE = 2e-5; // norm of the difference over the norm

    /** Where and in what is computed. */
    private record Setting(String device, DType dtype) {}

    @TestFactory
    Stream<DynamicTest> everyFamilyOnEveryDevice() throws IOException {
        List<Path> files;
        try (Stream<Path> list = Files.list(GoldenTest.folders().getFirst())) {
            files = list.filter(f -> f.getFileName().toString().matches("family-.*\\.safetensors"))
                    .sorted()
                    .toList();
        }
        assertFalse(files.isEmpty(), "no golden file family-*.safetensors");
        return Stream.of(
                        new Setting("cpu", DType.F32),
                        new Setting("cuda-emulated", DType.F32),
                        new Setting("cuda-emulated", DType.BF16),
                        new Setting("cuda", DType.F32),
                        new Setting("cuda", DType.BF16))
                .flatMap(setting -> files.stream()
                        .map(file -> DynamicTest.dynamicTest(
                                setting + ", " + file.getFileName(), () -> check(setting, file))));
    }

    private static void check(Setting setting, Path file) {
        try (Safetensors golden = Safetensors.open(file);
                Context context = open(setting)) {
            Map<String, String> meta = golden.metadata();
            boolean bf16 = setting.dtype == DType.BF16;
            // In bf16: twice the error of a plain bf16 run in PyTorch, and five times that of its gradients.
            double forward = bf16 ? 2 * Double.parseDouble(meta.get("bf16_forward")) : TOLERANCE;
            double gradient = bf16 ? 5 * Double.parseDouble(meta.get("bf16_gradient")) : TOLERANCE;
            int[][] tokens = cut(golden, "batch.token_ids", "batch.token_lens");
            int[][] sequences = cut(golden, "batch.items", "batch.lens");
            int[] negatives = ints(golden, "batch.negatives");
            try (Hllm packed = new Hllm(context, config(golden), Hllm.Trained.NOTHING, DType.F32)) {
                packed.load(GoldenTest.prefixed(golden, "param."));
                packed.pack(Hllm.Side.ITEM);
                packed.pack(Hllm.Side.USER);
                vectors(golden, packed, tokens, sequences, forward);
            }
            try (Hllm model = new Hllm(context, config(golden), new Hllm.Trained(true, true), DType.F32)) {
                model.load(GoldenTest.prefixed(golden, "param."));
                vectors(golden, model, tokens, sequences, forward);
                gradients(golden, model, tokens, sequences, negatives, 4096, forward, gradient);
                model.recompute(true); // and in chunks that are encoded twice
                gradients(golden, model, tokens, sequences, negatives, 16, forward, gradient);
            }
        }
        assertEquals(0, Context.liveBytes(setting.device));
    }

    private static void vectors(Safetensors golden, Hllm model, int[][] tokens, int[][] sequences, double allowed) {
        try (Tensor table = CatalogueEncoder.table(model, tokens, 40, null)) {
            near("out.item_embedding", golden, table.toFloats(), allowed);
            near("out.user_embedding", golden, predictions(model, table, sequences), allowed);
        }
    }

    private static Context open(Setting setting) {
        try {
            return Context.open(setting.device, setting.dtype);
        } catch (NativeException missing) {
            assertEquals(NativeException.Status.UNSUPPORTED, missing.status(), missing.getMessage());
            return Assumptions.abort("skipped: " + missing.getMessage());
        }
    }

    static HllmConfig config(Safetensors golden) {
        Map<String, String> meta = golden.metadata();
        return new HllmConfig(
                ModelConfig.parse(meta.get("item"), golden.origin()),
                ModelConfig.parse(meta.get("user"), golden.origin()),
                meta.get("item_token").equals("1") ? Pooling.TOKEN : Pooling.MEAN,
                Integer.parseInt(meta.get("max_text_length")),
                Integer.parseInt(meta.get("max_history")));
    }

    /** The User LLM's outputs at all events but the last of each sequence. */
    private static float[] predictions(Hllm model, Tensor table, int[][] sequences) {
        Ops ops = model.context().ops();
        int[] lengths = Arrays.stream(sequences).mapToInt(s -> s.length - 1).toArray();
        int[] items = Arrays.stream(sequences)
                .flatMapToInt(s -> Arrays.stream(s, 0, s.length - 1))
                .toArray();
        try (Workspace workspace = model.context().workspace()) {
            Tensor x = workspace.floats(items.length, model.config().width());
            ops.gatherRows(x, table, workspace.ints(items));
            try (UserLlm.Pass pass = model.users().forward(workspace, x, lengths, null, false)) {
                return pass.output().toFloats();
            }
        }
    }

    private static void gradients(
            Safetensors golden,
            Hllm model,
            int[][] tokens,
            int[][] sequences,
            int[] negatives,
            int rows,
            double forward,
            double allowed) {
        model.context().ops().fill(model.parameters().gradients(), 0);
        try (GenerativeStep step = new GenerativeStep(model, tokens, rows, 0.99f, null)) {
            GenerativeStep.Result found = step.run(sequences, negatives);
            near("out.loss", golden, new float[] {(float) found.loss()}, forward);
        }
        int compared = 0;
        for (Parameter parameter : model.parameters().all()) {
            String name = "grad." + parameter.name();
            float[] gradient = parameter.gradient().toFloats();
            if (golden.names().contains(name)) {
                near(name, golden, gradient, allowed);
                compared++;
            } else {
                double most = IntStream.range(0, gradient.length)
                        .mapToDouble(i -> Math.abs(gradient[i]))
                        .max()
                        .orElseThrow();
                assertTrue(most < 0.1 * allowed, name + " is up to " + most + ", expected 0");
            }
        }
        Set<String> names = golden.names();
        assertEquals(names.stream().filter(n -> n.startsWith("grad.")).count(), compared, "gradients compared");
    }

    private static void near(String name, TensorSource golden, float[] actual, double allowed) {
        float[] expected = new float[(int) golden.info(name).elements()];
        golden.read(name, 0, FloatBuffer.wrap(expected));
        assertEquals(expected.length, actual.length, name + ": length");
        double relative = Tiny.relativeError(expected, actual);
        assertTrue(relative <= allowed, () -> name + ": relative error " + relative + ", allowed " + allowed);
    }

    private static int[][] cut(Safetensors golden, String values, String lengths) {
        int[] all = ints(golden, values);
        int[] sizes = ints(golden, lengths);
        int[][] parts = new int[sizes.length][];
        int at = 0;
        for (int i = 0; i < parts.length; i++) {
            parts[i] = Arrays.copyOfRange(all, at, at + sizes[i]);
            at += sizes[i];
        }
        return parts;
    }

    private static int[] ints(Safetensors golden, String name) {
        return Arrays.stream(golden.readLongs(name)).mapToInt(i -> (int) i).toArray();
    }
}
