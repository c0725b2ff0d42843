package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.hllm4j.weights.TestFiles.Bytes;
import org.hllm4j.weights.TestFiles.GgufFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class PretrainedModelTest {
    @TempDir
    Path folder;

    private PretrainedModel gguf(GgufFile file) {
        return PretrainedModel.open(file.write(folder.resolve("m.gguf")));
    }

    private enum Layout {
        SAFETENSORS,
        TORCH,
        SAFETENSORS_SHARDS,
        TORCH_SHARDS
    }

    /** Saves a model in the Hugging Face layout, with a prefix on all names. */
    private Path save(PretrainedModel model, String prefix, Layout layout, List<String> names) throws IOException {
        Path target = Files.createDirectories(folder.resolve(layout + prefix));
        Files.writeString(target.resolve("config.json"), model.config().toJson());
        Files.writeString(target.resolve("tokenizer.json"), "{}");
        boolean shards = layout.name().endsWith("SHARDS");
        boolean torch = layout.name().startsWith("TORCH");
        String stem = torch ? "pytorch_model" : "model";
        String end = torch ? ".bin" : ".safetensors";
        StringBuilder map = new StringBuilder();
        for (int shard = 0; shard < (shards ? 2 : 1); shard++) {
            int cut = shards ? names.size() / 2 : names.size();
            List<String> part = shard == 0 ? names.subList(0, cut) : names.subList(cut, names.size());
            List<TensorInfo> infos = new ArrayList<>();
            String name = shards ? stem + "-" + (shard + 1) + "-of-2" + end : stem + end;
            for (String tensor : part) {
                infos.add(new TensorInfo(
                        prefix + tensor,
                        StoredType.F32,
                        model.tensors().info(tensor).shape()));
                map.append(map.isEmpty() ? "" : ",").append("\"" + prefix + tensor + "\":\"" + name + "\"");
            }
            Path file = target.resolve(name);
            try (TensorWriter writer = torch
                    ? TorchCheckpointWriter.create(file, infos)
                    : SafetensorsWriter.create(file, infos, Map.of())) {
                for (String tensor : part) {
                    writer.append(prefix + tensor, FloatBuffer.wrap(TestFiles.read(model.tensors(), tensor)));
                }
            }
        }
        if (shards) {
            Files.writeString(target.resolve(stem + end + ".index.json"), "{\"weight_map\":{" + map + "}}");
        }
        return target;
    }

    @Test
    void everyLayoutReadsTheSame() throws IOException {
        try (PretrainedModel model = gguf(TestFiles.tinyLlama())) {
            model.check();
            assertEquals(
                    new ModelConfig(Family.LLAMA, 8, 12, 1, 2, 1, 4, 5, 1e-5, 10000, null, 64, 0.02, false, null),
                    model.config());
            List<String> names = new ArrayList<>(model.tensors().names());
            assertEquals(12, names.size());
            for (Layout layout : Layout.values()) {
                for (String prefix : List.of("", "model.")) {
                    try (PretrainedModel copy = PretrainedModel.open(save(model, prefix, layout, names))) {
                        copy.check();
                        assertEquals(model.config(), copy.config());
                        assertEquals("{}", copy.tokenizerJson());
                        for (String name : names) {
                            assertEquals(name, copy.tensors().info(name).name());
                            assertArrayEquals(
                                    TestFiles.read(model.tensors(), name), TestFiles.read(copy.tensors(), name), name);
                        }
                    }
                }
            }
        }
    }

    @Test
    void weightsThatDoNotFitAreListed() throws IOException {
        try (PretrainedModel model = gguf(
                TestFiles.tinyLlama().f32Tensor("blk.1.attn_norm.weight", 8).f32Tensor("blk.0.attn_q.bias", 8))) {
            refused(model::check, "m.gguf", "unexpected: layers.1.input_layernorm.weight, blk.0.attn_q.bias");
        }
        try (PretrainedModel model = gguf(TestFiles.tinyLlama())) {
            List<String> names = new ArrayList<>(model.tensors().names());
            names.remove("norm.weight");
            Path broken = save(model, "", Layout.SAFETENSORS, names);
            Files.writeString(
                    broken.resolve("config.json"),
                    new ModelConfig(Family.LLAMA, 8, 14, 1, 2, 1, 4, 5, 1e-5, 10000, null, 64, 0.02, false, null)
                            .toJson());
            try (PretrainedModel opened = PretrainedModel.open(broken)) {
                refused(
                        opened::check,
                        "missing: norm.weight",
                        "wrong shape: layers.0.mlp.gate_proj.weight [12, 8] instead of [14, 8]");
            }
            Files.writeString(
                    broken.resolve("config.json"),
                    model.config().withLayers(2_000_000_000).toJson());
            try (PretrainedModel opened = PretrainedModel.open(broken)) {
                refused(opened::check, "2000000000 layers", "only 11 tensors");
            }
        }
    }

    @Test
    void missingFilesSayWhereItLooked() throws IOException {
        refused(() -> PretrainedModel.open(folder.resolve("nowhere")), "nowhere", "expected a folder");
        refused(() -> PretrainedModel.open(folder), folder.toString(), "config.json (missing)", "none found");
        Files.writeString(folder.resolve("config.json"), "{}");
        refused(() -> PretrainedModel.open(folder), "config.json (found)", "model.safetensors", "none found");
        refused(() -> PretrainedModel.open(folder.resolve("config.json")), "config.json", "not a GGUF file", "folder");
        try (PretrainedModel model = gguf(TestFiles.tinyLlama())) {
            refused(model::tokenizerJson, "'tokenizer.ggml.model' is missing");
            Path saved = save(
                    model, "", Layout.TORCH, new ArrayList<>(model.tensors().names()));
            Files.delete(saved.resolve("tokenizer.json"));
            try (PretrainedModel opened = PretrainedModel.open(saved)) {
                refused(opened::tokenizerJson, "no tokenizer.json in " + saved, "save_pretrained");
                refused(() -> opened.tensors().info("nrm.weight"), "'nrm.weight'", "[norm.weight");
            }
        }
    }

    @Test
    void ggufConfigs() {
        Map<String, Object> llama3 = Map.of(
                "rope_type", "llama3",
                "factor", 32.0,
                "low_freq_factor", 1.0,
                "high_freq_factor", 4.0,
                "original_max_position_embeddings", 8192);
        // head dimension 4: two frequencies, 1 and theta^-1/2; at theta 1e8 the second turns once in 62,832 positions
        byte[] factors = new Bytes().f32(1).f32(32).done();
        try (PretrainedModel model = gguf(
                TestFiles.tinyLlama().f32("llama.rope.freq_base", 1e8f).tensor("rope_freqs.weight", 0, factors, 2))) {
            assertEquals(llama3, model.config().ropeScaling());
            model.check();
        }
        GgufFile other = TestFiles.tinyLlama().tensor("rope_freqs.weight", 0, factors, 2);
        refused(() -> gguf(other), "rope_freqs.weight", "not those of Llama 3.1");
        try (PretrainedModel model = gguf(TestFiles.tinyLlama()
                .string("llama.rope.scaling.type", "linear")
                .f32("llama.rope.scaling.factor", 4))) {
            assertEquals(
                    Map.of("rope_type", "linear", "factor", 4.0), model.config().ropeScaling());
        }
        refused(() -> gguf(TestFiles.tinyLlama().string("llama.rope.scaling.type", "yarn")), "'yarn'");
        refused(() -> gguf(TestFiles.tinyLlama().u32("llama.rope.dimension_count", 2)), "dimension_count");
        refused(() -> gguf(TestFiles.tinyLlama().u32("llama.expert_count", 8)), "mixture-of-experts");
        refused(() -> gguf(new GgufFile().string("general.architecture", "qwen2")), "\"qwen2\"");
        refused(() -> gguf(new GgufFile()), "'general.architecture' is missing");
    }

    @Test
    void realModel() {
        try (PretrainedModel model = PretrainedModel.open(TestFiles.smolLm2())) {
            model.check();
            assertEquals(
                    new ModelConfig(Family.LLAMA, 576, 1536, 30, 9, 3, 64, 49152, 1e-5, 1e5, null, 8192, 0.02, true, 1),
                    model.config());
        }
    }
}
