package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.EventScorer;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Parameter;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Numbers of golden/ranker_golden.py: plain PyTorch in double precision, every labelled event a sequence of its own, against
 * the shared pass: logits, both losses, and every gradient, with and without the generative loss and the items' priors.
 */
class RankerGoldenTest {
    private static final double TOLERANCE = 2e-5; // norm of the difference over the norm

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @ParameterizedTest
    @EnumSource(Fusion.class)
    void logitsLossesAndGradients(Fusion fusion) {
        Path file = GoldenTest.folders().getFirst().resolve("ranker-" + name(fusion) + ".safetensors");
        try (Safetensors golden = Safetensors.open(file);
                Context context = Context.open(Tiny.device(), DType.F32)) {
            Map<String, String> meta = golden.metadata();
            ModelConfig llm =
                    ModelConfig.parse(meta.get("config").replace("{", "{\"num_hidden_layers\": 2, "), file.toString());
            HllmConfig config = new HllmConfig(
                    llm.withLayers(Integer.parseInt(meta.get("item_layers"))),
                    llm.withLayers(Integer.parseInt(meta.get("user_layers"))),
                    Pooling.TOKEN,
                    Integer.parseInt(meta.get("max_text_length")),
                    Integer.parseInt(meta.get("max_history")),
                    fusion);
            int[][] tokens = cut(golden.readLongs("batch.token_ids"), golden.readLongs("batch.token_lens"));
            List<LabelledSequence> plain = sequences(golden, false);
            List<LabelledSequence> known = sequences(golden, true);
            try (Hllm model = new Hllm(context, config, new Hllm.Trained(true, true, true), DType.F32)) {
                model.load(parameters(golden));
                try (Tensor table = CatalogueEncoder.table(model, tokens, 4096, null)) {
                    for (int rows : new int[] {1, 10, 4096}) {
                        near(
                                "logits",
                                floats(golden, "out.logits"),
                                EventScorer.logits(model, table, plain, rows, null));
                        near(
                                "logits with priors",
                                floats(golden, "prior.logits"),
                                EventScorer.logits(model, table, known, rows, null));
                    }
                }
                for (int rows : new int[] {8, 4096}) { // in chunks that are encoded twice, and at once
                    float lambda = Float.parseFloat(meta.get("lambda"));
                    gradients(golden, model, tokens, plain, rows, 0, "bce", "out.losses");
                    gradients(golden, model, tokens, plain, rows, lambda, "joint", "out.losses");
                    gradients(golden, model, tokens, known, rows, lambda, "prior", "prior.losses");
                }
            }
        }
    }

    private static void gradients(
            Safetensors golden,
            Hllm model,
            int[][] tokens,
            List<LabelledSequence> sequences,
            int rows,
            float lambda,
            String kind,
            String ofLosses) {
        int[] negatives = Arrays.stream(golden.readLongs("batch.negatives"))
                .mapToInt(i -> (int) i)
                .toArray();
        float[] losses = floats(golden, ofLosses);
        try (DiscriminativeStep step = new DiscriminativeStep(model, tokens, rows, 0.99f, lambda, null)) {
            model.context().ops().fill(model.parameters().gradients(), 0);
            DiscriminativeStep.Result found = step.run(sequences, negatives);
            assertEquals(losses[0], found.crossEntropy(), 1e-5, "cross entropy");
            assertEquals(lambda == 0 ? 0 : losses[1], found.infoNce(), 1e-5, "InfoNCE");
            assertEquals(losses[0] + lambda * losses[1], found.loss(), 1e-5, "loss");
            Set<String> names = golden.names();
            int compared = 0;
            for (Parameter parameter : model.parameters().all()) {
                String name = "grad." + kind + "." + parameter.name();
                float[] gradient = parameter.gradient().toFloats();
                if (names.contains(name)) {
                    near(name, floats(golden, name), gradient);
                    compared++;
                } else {
                    assertTrue(IntStream.range(0, gradient.length).allMatch(i -> gradient[i] == 0), name + " is not 0");
                }
            }
            // All but the logit scale, which the labels say nothing about.
            assertEquals(model.parameters().all().size() - (lambda == 0 ? 1 : 0), compared, "gradients compared");
        }
    }

    private static List<LabelledSequence> sequences(Safetensors golden, boolean withPriors) {
        float[] all = floats(golden, "batch.priors");
        int first = 0;
        int[][] items = cut(golden.readLongs("batch.items"), golden.readLongs("batch.lens"));
        int[][] marks = cut(golden.readLongs("batch.labels"), golden.readLongs("batch.lens"));
        List<LabelledSequence> sequences = new ArrayList<>();
        for (int user = 0; user < items.length; user++) {
            int[] mark = marks[user];
            int[] places =
                    IntStream.range(0, mark.length).filter(i -> mark[i] >= 0).toArray();
            float[] labels = new float[places.length];
            float[] priors = new float[places.length];
            for (int i = 0; i < labels.length; i++) {
                labels[i] = mark[places[i]];
                priors[i] = withPriors ? all[first + places[i]] : 0;
            }
            first += mark.length;
            sequences.add(new LabelledSequence(user, items[user], places, labels, priors));
        }
        return sequences;
    }

    private static int[][] cut(long[] values, long[] lengths) {
        int[][] parts = new int[lengths.length][];
        int at = 0;
        for (int i = 0; i < parts.length; i++) {
            parts[i] = Arrays.stream(values, at, at + (int) lengths[i])
                    .mapToInt(v -> (int) v)
                    .toArray();
            at += (int) lengths[i];
        }
        return parts;
    }

    private static float[] floats(TensorSource source, String name) {
        float[] values = new float[(int) source.info(name).elements()];
        source.read(name, 0, FloatBuffer.wrap(values));
        return values;
    }

    private static void near(String what, float[] expected, float[] actual) {
        assertEquals(expected.length, actual.length, what + ": length");
        double relative = Tiny.relativeError(expected, actual);
        assertTrue(relative <= TOLERANCE, () -> what + ": relative error " + relative + ", allowed " + TOLERANCE);
    }

    private static String name(Fusion fusion) {
        return fusion.name().toLowerCase(Locale.ROOT);
    }

    private static TensorSource parameters(TensorSource golden) {
        return new TensorSource() {
            @Override
            public String origin() {
                return golden.origin();
            }

            @Override
            public Set<String> names() {
                throw new UnsupportedOperationException();
            }

            @Override
            public TensorInfo info(String name) {
                return golden.info("param." + name);
            }

            @Override
            public void read(String name, long first, FloatBuffer out) {
                golden.read("param." + name, first, out);
            }

            @Override
            public void close() {
                // the caller's
            }
        };
    }
}
