package org.hllm4j.cli;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.function.LongConsumer;
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
import org.hllm4j.text.ItemText;
import org.hllm4j.weights.Npy;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "embed",
        description = "Turns item texts into vectors: float32 [items, D] in row order, beside a file of ids.",
        footer = {
            "  hllm embed --llm SmolLM2-135M.gguf --items items.csv --out vectors.npy",
            "  hllm embed --run run --items new-items.csv --out vectors.safetensors",
            "Interrupted, the same command continues. vectors.ids has one id a line; one with a line break, or that",
            "begins with a quotation mark, is written as a JSON string."
        })
final class EmbedCommand extends Subcommand {
    private static final String LESS = "--dtype=bf16, the first layers alone (--item-layers=N), or a smaller model";

    @Option(names = "--llm", paramLabel = "PATH", description = "A Hugging Face folder or a GGUF file; or --run.")
    private Path llm;

    @Option(names = "--run", paramLabel = "DIR", description = "The trained item side of this run folder, instead.")
    private Path run;

    @Mixin
    private ItemOptions items;

    @Option(
            names = "--out",
            required = true,
            paramLabel = "FILE",
            description = "The vectors: FILE.npy, or FILE.safetensors with a tensor \"vectors\"; FILE.ids beside it has"
                    + " the ids.")
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
        if (!ItemVectors.supports(out) || limit < 0) {
            throw wrongUsage(
                    limit < 0
                            ? "--limit is " + limit + ", expected at least 1"
                            : "--out must end in .npy or .safetensors");
        }
        if (run != null) {
            refuseBesideRun();
        }
        try (Interruption interruption = new Interruption("what is computed is written; the same command continues");
                Progress progress = progress();
                Context context = device.open()) {
            report(
                    run != null
                            ? trained(context, progress, interruption)
                            : pretrained(context, progress, interruption));
            return Main.OK;
        } catch (CancellationException e) {
            return Main.INTERRUPTED;
        }
    }

    private ItemVectors.Result trained(Context context, Progress progress, Interruption interruption) {
        RunFolder folder = new RunFolder(run);
        Manifest manifest = folder.manifest();
        ItemVectors.Input input = input(manifest.textKeys(), folder.tokenizerJson(), run);
        Set<Hllm.Side> items = EnumSet.of(Hllm.Side.ITEM);
        folder.need(items, device.storage(), context.device()).require(context.device(), "embedding", LESS);
        try (Hllm model = folder.load(context, device.storage(), items)) {
            return write(model, input, manifest.modelHash(), progress, interruption);
        }
    }

    private ItemVectors.Result pretrained(Context context, Progress progress, Interruption interruption) {
        List<String> keys = textKeys == null ? Start.of(llm).textKeys() : textKeys;
        Start start = new Start(
                llm,
                null,
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
        ItemVectors.Input input = input(keys, start.tokenizerJson(), llm);
        start.itemsNeed(device.storage(), context.device()).require(context.device(), "embedding", LESS);
        try (Hllm model = start.items(context, device.storage())) {
            if (itemToken != null) {
                model.itemToken(readVector(itemToken));
            }
            String token = itemToken == null ? "" : Hashes.of(itemToken);
            return write(model, input, start.asMap() + token, progress, interruption);
        }
    }

    private ItemVectors.Input input(List<String> keys, String tokenizerJson, Path origin) {
        Catalogue catalogue = Catalogue.read(items.items, keys);
        int count = limit == 0 ? catalogue.size() : Math.min(limit, catalogue.size());
        return new ItemVectors.Input(catalogue, count, new ItemText(keys), tokenizerJson, origin.toString());
    }

    private ItemVectors.Result write(
            Hllm model, ItemVectors.Input input, String weights, Progress progress, Interruption interruption) {
        LongConsumer counter = progress.counter("items", "items", input.items());
        return ItemVectors.write(model, input, weights + device.storage(), out, written -> {
            counter.accept(written);
            if (interruption.requested()) {
                throw new CancellationException();
            }
        });
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
