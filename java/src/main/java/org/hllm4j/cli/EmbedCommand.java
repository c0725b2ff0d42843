package org.hllm4j.cli;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.ItemVectors;
import org.hllm4j.run.Manifest;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;
import org.hllm4j.weights.Npy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "embed",
        description = "Turns item texts into vectors: float32 [items, D] in row order, beside a file of ids.",
        footer = {
            "  hllm embed --llm SmolLM2-135M.gguf --items items.csv --out vectors.npy",
            "  hllm embed --run run --items new-items.csv --out vectors.npy",
            "Interrupted, the same command continues. vectors.ids has one id a line; one with a line break, or that",
            "begins with a quotation mark, is written as a JSON string."
        })
final class EmbedCommand extends Subcommand {
    @Option(names = "--llm", paramLabel = "PATH", description = "A Hugging Face folder or a GGUF file; or --run.")
    private Path llm;

    @Option(names = "--run", paramLabel = "DIR", description = "The trained item side of this run folder, instead.")
    private Path run;

    @Mixin
    private ItemOptions items;

    @Option(
            names = "--out",
            required = true,
            paramLabel = "FILE.npy",
            description = "The vectors; FILE.ids beside it has the ids.")
    private Path out;

    @Option(
            names = "--text-keys",
            split = ",",
            paramLabel = "KEY",
            description =
                    "Columns of items.csv that make an item's text, in this order. Default: title,tag,description.")
    private List<String> textKeys;

    @Option(
            names = "--item-token",
            paramLabel = "FILE.npy",
            description = "The input vector of [ITEM], D numbers. Default: random, N(0, 0.02) from --seed.")
    private Path itemToken;

    @Option(
            names = "--item-layers",
            paramLabel = "N",
            description = "The first N layers, the final norm kept. Default: all.")
    private Integer itemLayers;

    @Option(
            names = "--pooling",
            paramLabel = "HOW",
            description = "token (the state at [ITEM]) or mean (of the tokens' states). Default: token.")
    private Pooling pooling;

    @Option(names = "--max-text-length", paramLabel = "N", description = "Tokens of an item's text. Default: 64.")
    private Integer maxTextLength;

    @Option(names = "--seed", paramLabel = "N", description = "Of a random [ITEM] vector. Default: 1.")
    private Long seed;

    @Option(names = "--limit", paramLabel = "N", description = "The first N items only, as for a measurement.")
    private int limit;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        if ((llm == null) == (run == null)) {
            throw wrongUsage("expected either --llm=PATH or --run=DIR");
        }
        if (!out.getFileName().toString().endsWith(".npy") || limit < 0) {
            throw wrongUsage(limit < 0 ? "--limit is " + limit + ", expected at least 1" : "--out must end in .npy");
        }
        if (run != null) {
            refuseBesideRun();
        }
        try (Progress progress = progress();
                Context context = device.open()) {
            ItemVectors.Result result = run != null ? trained(context, progress) : pretrained(context, progress);
            report(result);
        }
        return Main.OK;
    }

    private ItemVectors.Result trained(Context context, Progress progress) {
        RunFolder folder = new RunFolder(run);
        Manifest manifest = folder.manifest();
        Catalogue catalogue = Catalogue.read(items.items, manifest.textKeys());
        int[][] tokens = limited(Start.tokens(
                catalogue,
                manifest.textKeys(),
                folder.tokenizerJson(),
                run.toString(),
                manifest.maxTextLength(),
                null));
        try (Hllm model = folder.load(context, device.storage())) {
            return write(model, catalogue, tokens, manifest.modelHash(), progress);
        }
    }

    private ItemVectors.Result pretrained(Context context, Progress progress) {
        List<String> keys = textKeys == null ? Start.of(llm).textKeys() : textKeys;
        // The User LLM is not used: as little of it as possible.
        Start start = new Start(
                llm,
                llm,
                Start.Init.PRETRAINED,
                Start.Init.RANDOM,
                Start.Freeze.NONE,
                itemLayers == null ? 0 : itemLayers,
                1,
                pooling == null ? Pooling.TOKEN : pooling,
                maxTextLength == null ? 64 : maxTextLength,
                1,
                keys,
                seed == null ? 1 : seed);
        Catalogue catalogue = Catalogue.read(items.items, keys);
        int[][] tokens = limited(
                Start.tokens(catalogue, keys, start.tokenizerJson(), llm.toString(), start.maxTextLength(), null));
        try (Hllm model = start.model(context, device.storage())) {
            if (itemToken != null) {
                model.itemToken(readVector(itemToken));
            }
            String token = itemToken == null ? "" : Hashes.of(itemToken);
            return write(model, catalogue, tokens, start.asMap() + token, progress);
        }
    }

    private ItemVectors.Result write(
            Hllm model, Catalogue catalogue, int[][] tokens, String weights, Progress progress) {
        return ItemVectors.write(
                model,
                catalogue,
                tokens,
                weights + device.storage(),
                out,
                progress.counter("items", "items", tokens.length));
    }

    private int[][] limited(int[][] tokens) {
        return limit == 0 || limit >= tokens.length ? tokens : Arrays.copyOf(tokens, limit);
    }

    private void report(ItemVectors.Result result) {
        out().printf(
                        Locale.ROOT,
                        "%d items, %d tokens in %.2f s: %.1f items/s, %.0f tokens/s (%d token rows computed). Vectors:"
                                + " %s%n",
                        result.items(),
                        result.tokens(),
                        result.seconds(),
                        result.items() / result.seconds(),
                        result.tokens() / result.seconds(),
                        result.rows(),
                        out);
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("items", result.items());
        map.put("tokens", result.tokens());
        map.put("seconds", result.seconds());
        map.put("items_s", result.items() / result.seconds());
        map.put("tokens_s", result.tokens() / result.seconds());
        map.put("rows", result.rows());
        json.write(map);
    }

    private void refuseBesideRun() {
        List<String> given = new ArrayList<>();
        Map<String, Object> options = new LinkedHashMap<>();
        options.put("--text-keys", textKeys);
        options.put("--item-token", itemToken);
        options.put("--item-layers", itemLayers);
        options.put("--pooling", pooling);
        options.put("--max-text-length", maxTextLength);
        options.put("--seed", seed);
        options.forEach((name, value) -> {
            if (value != null) {
                given.add(name);
            }
        });
        if (!given.isEmpty()) {
            throw wrongUsage(String.join(", ", given) + ": the run folder says this; not to be given with --run");
        }
    }

    private static float[] readVector(Path npy) {
        try (Npy.Reader reader = Npy.open(npy)) {
            long elements = Arrays.stream(reader.shape()).reduce(1, (a, b) -> a * b);
            if (elements > 1 << 20) {
                throw new HllmException(npy + ": has " + elements + " numbers, expected one vector");
            }
            float[] values = new float[(int) elements];
            reader.read(0, FloatBuffer.wrap(values));
            return values;
        }
    }
}
