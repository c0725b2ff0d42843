package org.hllm4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.run.RandomModel;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

@Command(
        name = "random-model",
        hidden = true,
        description = "Writes a model with random bf16 weights, for measuring what one of its shape takes.",
        footer = {
            "  hllm random-model --shape baichuan2-7b --out model",
            "  hllm random-model --shape tinyllama-1.1b --items items.csv --out run    # for `hllm serve --run run`"
        })
final class RandomModelCommand extends Subcommand {
    /** Shapes of known models. */
    enum Shape {
        SMOLLM2_135M(Family.LLAMA, 576, 1536, 30, 9, 3, 49152, 1e-5, 100_000, 8192, true),
        TINYLLAMA_1_1B(Family.LLAMA, 2048, 5632, 22, 32, 4, 32000, 1e-5, 10_000, 2048, false),
        BAICHUAN2_7B(Family.BAICHUAN, 4096, 11008, 32, 32, 32, 125_696, 1e-6, 10_000, 4096, false);

        private final ModelConfig config;

        Shape(
                Family family,
                int hidden,
                int inner,
                int layers,
                int heads,
                int kvHeads,
                int vocabulary,
                double eps,
                double theta,
                int positions,
                boolean tied) {
            config = new ModelConfig(
                    family,
                    hidden,
                    inner,
                    layers,
                    heads,
                    kvHeads,
                    hidden / heads,
                    vocabulary,
                    eps,
                    theta,
                    null,
                    positions,
                    0.02,
                    tied,
                    1);
        }

        /** As "tinyllama-1.1b". */
        String text() {
            return name().toLowerCase(Locale.ROOT).replace("1_1b", "1.1b").replace('_', '-');
        }
    }

    @Option(names = "--shape", paramLabel = "NAME", description = "smollm2-135m, tinyllama-1.1b or baichuan2-7b.")
    private String shape;

    @Option(names = "--config", paramLabel = "FILE", description = "The shape of this config.json instead.")
    private Path config;

    @Option(names = "--layers", paramLabel = "N", description = "The first N layers. Default: all.")
    private int layers;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "The Hugging Face folder.")
    private Path out;

    @Option(
            names = "--items",
            paramLabel = "FILE",
            description = "Make DIR a run folder for these items, of which both sides are this model.")
    private Path items;

    @Option(
            names = "--text-keys",
            split = ",",
            paramLabel = "KEY",
            description = "Columns of items.csv that make an item's text. Default: title.")
    private List<String> textKeys = List.of("title");

    @Option(names = "--max-text-length", paramLabel = "N", description = "Of a run. Default: ${DEFAULT-VALUE}.")
    private int maxTextLength = 128; // bytes, and the prompt alone has more than 50

    @Option(names = "--max-history", paramLabel = "N", description = "Of a run. Default: ${DEFAULT-VALUE}.")
    private int maxHistory = 50;

    @Option(
            names = "--shard-size",
            paramLabel = "SIZE",
            converter = Size.class,
            description = "Of a weight file. Default: 5g.")
    private long shardSize = 5L << 30;

    @Option(names = "--seed", paramLabel = "N", description = "Of the weights. Default: ${DEFAULT-VALUE}.")
    private long seed = 1;

    @Override
    public Integer call() {
        if ((shape == null) == (config == null)) {
            throw wrongUsage("expected either --shape=NAME or --config=FILE");
        }
        ModelConfig model = config == null ? known() : read();
        if (layers < 0 || layers > model.layers()) {
            throw wrongUsage("--layers is " + layers + ", but the model has " + model.layers());
        }
        model = layers == 0 ? model : model.withLayers(layers);
        long bytes = RandomModel.bytes(model);
        Path llm = items == null ? out : out.resolve("model-0").resolve("item");
        long free = RunFolder.create(llm).freeBytes();
        if (free < bytes) {
            throw new HllmException(out + ": the weights take " + bytes / 1_000_000 + " MB, and " + free / 1_000_000
                    + " MB are free there");
        }
        try (Progress progress = progress()) {
            RandomModel.write(model, llm, shardSize, seed, progress.counter("weights", "bytes", bytes));
            if (items != null) {
                new RunFolder(out)
                        .saveUntrained(llm, maxTextLength, maxHistory, textKeys, Catalogue.read(items, textKeys), seed);
            }
        }
        out().printf(Locale.ROOT, "%.2f GB of random weights, %d layers: %s%n", bytes / 1e9, model.layers(), llm);
        return Main.OK;
    }

    private ModelConfig known() {
        return Arrays.stream(Shape.values())
                .filter(known -> known.text().equalsIgnoreCase(shape))
                .findFirst()
                .orElseThrow(() -> wrongUsage("--shape is " + shape + ", expected one of "
                        + Arrays.stream(Shape.values()).map(Shape::text).collect(Collectors.joining(", "))))
                .config;
    }

    private ModelConfig read() {
        try {
            return ModelConfig.parse(Files.readString(config), config.toString());
        } catch (IOException e) {
            throw new HllmException(config + ": cannot be read: " + e, e);
        }
    }
}
