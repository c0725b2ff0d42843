package org.hllm4j.cli;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Interactions;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Export;
import org.hllm4j.run.Hashes;
import org.hllm4j.serve.Recommender;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "export",
        description = "Writes a trained model and its vectors for other programs.",
        footer = {
            "  hllm export --run run --items items.csv --interactions interactions.csv --out exported",
            "  hllm export ... --what vectors",
            "vectors:      items.npy, items.safetensors, items.ids; with --interactions users.* likewise, each user's",
            "              vector after all events",
            "huggingface:  the folders item_llm and user_llm, which transformers' AutoModel loads",
            "checkpoint:   pytorch_model.bin with the names of the official HLLM code"
        })
final class ExportCommand extends Subcommand {
    /** Users whose vectors are in memory at a time. */
    private static final int USERS = 1024;

    private enum What {
        VECTORS,
        HUGGINGFACE,
        CHECKPOINT
    }

    @Mixin
    private RunOption run;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "Where the files go.")
    private Path out;

    @Option(
            names = "--what",
            split = ",",
            paramLabel = "KIND",
            description = "Which of vectors, huggingface and checkpoint. Default: all.")
    private Set<What> what = EnumSet.allOf(What.class);

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        if (device.asksFor(DType.BF16)) {
            throw wrongUsage("--dtype bf16: what is exported is in full precision");
        }
        if (what.contains(What.HUGGINGFACE) || what.contains(What.CHECKPOINT)) {
            run.run().requireTexts("to export (--what vectors exports its vectors)");
        }
        device.apply();
        List<String> written = new ArrayList<>();
        try (Progress progress = progress()) {
            Catalogue catalogue = run.catalogue(items.items);
            Interactions interactions = log.interactions == null ? null : log.read(catalogue);
            if (interactions != null) {
                catalogue = interactions.catalogue();
            }
            if (what.contains(What.VECTORS)) {
                vectors(catalogue, interactions, progress, written);
            }
            if (what.contains(What.HUGGINGFACE) || what.contains(What.CHECKPOINT)) {
                model(progress, written);
            }
        }
        out().println("Written to " + out + ": " + String.join(", ", written));
        json.write(Map.of("out", out.toString(), "written", written));
        return Main.OK;
    }

    private void vectors(Catalogue catalogue, Interactions interactions, Progress progress, List<String> written) {
        try (Recommender recommender = Recommender.open(
                run.run(),
                catalogue,
                device.device(),
                DType.F32,
                progress.counter("items", "items", catalogue.size()))) {
            itemVectors(recommender);
            written.addAll(List.of("items.npy", "items.safetensors", "items.ids"));
            if (interactions != null) {
                userVectors(recommender, interactions, progress);
                written.addAll(List.of("users.npy", "users.safetensors", "users.ids"));
            }
        }
    }

    private void model(Progress progress, List<String> written) {
        try (Context context = Context.open("cpu");
                Hllm model = run.run().load(context, DType.F32)) {
            if (what.contains(What.HUGGINGFACE)) {
                progress.say("Writing the Hugging Face folders");
                Export.huggingFace(model, run.run().tokenizerJson(), out);
                written.addAll(List.of("item_llm", "user_llm"));
            }
            if (what.contains(What.CHECKPOINT)) {
                progress.say("Writing the official checkpoint");
                Export.officialCheckpoint(model, out.resolve("pytorch_model.bin"));
                written.add("pytorch_model.bin");
            }
        }
    }

    private void itemVectors(Recommender recommender) {
        Catalogue catalogue = recommender.catalogue();
        Map<String, String> metadata = new LinkedHashMap<>(metadata());
        metadata.put("ids_sha256", Hashes.of(catalogue));
        Tensor table = recommender.table();
        long rows = Math.max(1, (1 << 20) / table.size(1));
        Iterator<FloatBuffer> pieces = IntStream.iterate(0, at -> at < table.size(0), at -> (int) (at + rows))
                .mapToObj(at -> FloatBuffer.wrap(
                        table.rows(at, Math.min(table.size(0), at + rows)).toFloats()))
                .iterator();
        Export.vectors(
                out,
                "items",
                IntStream.range(0, catalogue.size()).mapToObj(catalogue::id).toList(),
                (int) table.size(1),
                pieces,
                metadata);
    }

    private void userVectors(Recommender recommender, Interactions interactions, Progress progress) {
        int users = interactions.users();
        int width = recommender.model().config().width();
        Iterator<FloatBuffer> pieces = IntStream.iterate(0, at -> at < users, at -> at + USERS)
                .mapToObj(at -> {
                    int end = Math.min(users, at + USERS);
                    float[][] vectors = recommender.userVectors(IntStream.range(at, end)
                            .mapToObj(interactions::events)
                            .toList());
                    FloatBuffer piece = FloatBuffer.allocate(vectors.length * width);
                    for (float[] vector : vectors) {
                        piece.put(vector);
                    }
                    progress.at("users", "users", end, users, "");
                    return piece.flip();
                })
                .iterator();
        Export.vectors(
                out,
                "users",
                IntStream.range(0, users).mapToObj(interactions::userId).toList(),
                width,
                pieces,
                metadata());
    }

    private Map<String, String> metadata() {
        return Map.of("model_sha256", run.run().manifest().modelHash());
    }
}
