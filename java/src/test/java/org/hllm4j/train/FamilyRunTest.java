package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.Parameter;
import org.hllm4j.run.Export;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.PretrainedModel;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.TorchCheckpoint;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Every family and mixture is saved, loaded and exported whole; what is exported opens as a pretrained model. */
class FamilyRunTest {
    @TempDir
    Path folder;

    static Stream<Path> files() throws IOException {
        try (Stream<Path> list = Files.list(GoldenTest.folders().getFirst())) {
            return list
                    .filter(f -> f.getFileName().toString().matches("family-.*\\.safetensors"))
                    .sorted()
                    .toList()
                    .stream();
        }
    }

    @ParameterizedTest
    @MethodSource("files")
    void savedLoadedExported(Path file) throws IOException {
        Path items = Files.writeString(folder.resolve("items.csv"), "item_id,title\na,x\nb,y\n");
        Catalogue catalogue = Catalogue.read(items, List.of("title"));
        RunFolder run = RunFolder.create(folder.resolve("run"));
        try (Safetensors golden = Safetensors.open(file);
                Context context = Context.open("cpu");
                Hllm model = new Hllm(context, FamilyGoldenTest.config(golden), Hllm.Trained.NOTHING, DType.F32)) {
            model.load(GoldenTest.prefixed(golden, "param."));
            run.save(
                    model,
                    1,
                    new RunFolder.Description(List.of("title"), catalogue, "{}", Map.of(), Map.of(), Map.of()));
            try (Hllm loaded = run.load(context, DType.F32)) {
                assertEquals(
                        model.parameters().all().size(),
                        loaded.parameters().all().size());
                same(model, loaded);
            }
            Export.huggingFace(model, "{}", folder.resolve("hf"));
            for (String side : List.of("item_llm", "user_llm")) {
                try (PretrainedModel opened =
                        PretrainedModel.open(folder.resolve("hf").resolve(side))) {
                    opened.check();
                }
            }
            Path checkpoint = folder.resolve("pytorch_model.bin");
            Export.officialCheckpoint(model, checkpoint);
            try (Hllm loaded = new Hllm(context, model.config(), Hllm.Trained.NOTHING, DType.F32);
                    TorchCheckpoint opened = TorchCheckpoint.open(checkpoint)) {
                loaded.load(opened);
                same(model, loaded);
            }
        }
        assertEquals(0, Context.liveBytes("cpu"));
    }

    private static void same(Hllm expected, Hllm actual) {
        for (Parameter parameter : expected.parameters().all()) {
            assertArrayEquals(
                    parameter.value().toFloats(),
                    actual.parameters().get(parameter.name()).value().toFloats(),
                    parameter.name());
        }
    }
}
