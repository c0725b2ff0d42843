package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
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
            refused(
                    model::check,
                    "m.gguf",
                    "unexpected: layers.1.input_layernorm.weight, layers.0.self_attn.q_proj.bias");
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
                refused(
                        opened::tokenizerJson,
                        "no tokenizer.json and no tokenizer.model in " + saved,
                        "save_pretrained");
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
        refused(() -> gguf(new GgufFile().string("general.architecture", "gemma")), "\"gemma\"");
        refused(() -> gguf(new GgufFile()), "'general.architecture' is missing");
    }

    /** Biases of Qwen2, norms of heads of Qwen3; their rows are in the order of Hugging Face already. */
    @Test
    void ggufFamilies() {
        GgufFile qwen2 = TestFiles.tiny("qwen2")
                .f32Tensor("blk.0.attn_q.bias", 8)
                .f32Tensor("blk.0.attn_k.bias", 4)
                .f32Tensor("blk.0.attn_v.bias", 4);
        GgufFile qwen3 = TestFiles.tiny("qwen3")
                .f32Tensor("blk.0.attn_q_norm.weight", 4)
                .f32Tensor("blk.0.attn_k_norm.weight", 4);
        try (PretrainedModel two = gguf(qwen2)) {
            two.check();
            assertEquals(Family.QWEN2, two.config().family());
            assertEquals(12 + 3, two.tensors().names().size());
        }
        try (PretrainedModel three = gguf(qwen3)) {
            three.check();
            assertEquals(Family.QWEN3, three.config().family());
            float[] rows = TestFiles.read(three.tensors(), "layers.0.self_attn.q_proj.weight");
            try (PretrainedModel llama = gguf(TestFiles.tinyLlama())) {
                float[] turned = TestFiles.read(llama.tensors(), "layers.0.self_attn.q_proj.weight");
                assertArrayEquals(
                        Arrays.copyOfRange(rows, 8, 16), Arrays.copyOfRange(turned, 16, 24)); // row 1 and row 2
            }
        }
        try (PretrainedModel missing = gguf(TestFiles.tiny("qwen2"))) {
            refused(missing::check, "missing: layers.0.self_attn.q_proj.bias, layers.0.self_attn.k_proj.bias");
        }
    }

    /** A folder of every family: complete, with an output layer beside it, and with what belongs to another family. */
    @Test
    void foldersOfEveryFamily() throws IOException {
        for (Family family : Family.values()) {
            if (family == Family.SASREC) {
                continue; // nobody's pretrained model
            }
            String config = family.encoder() ? """
                      {"model_type":"bert","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,
                      "num_attention_heads":2,"vocab_size":5,"max_position_embeddings":10}""" : """
                      {"model_type":"%s","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"head_dim":4,
                      "num_attention_heads":2,"num_key_value_heads":2,"vocab_size":5,"max_position_embeddings":64}""".formatted(family.modelType());
            ModelConfig shape = ModelConfig.parse(config, "c");
            assertEquals(shape, ModelConfig.parse(shape.toJson(), "again"), family + ": what is written is read");
            List<TensorInfo> infos = new ArrayList<>();
            infos.add(info(family.filePrefix() + family.words(), 5, 8));
            for (TensorGroup group : TensorGroup.of(shape)) {
                for (int i = 0; i < group.names().size(); i++) {
                    infos.add(info(family.filePrefix() + group.names().get(i), group.shape(i)));
                }
            }
            infos.add(family.encoder() ? info("pooler.dense.weight", 8, 8) : info("lm_head.weight", 5, 8));
            try (PretrainedModel model = PretrainedModel.open(folder(family + "", config, infos))) {
                model.check();
            }
            TensorInfo last = infos.removeLast();
            TensorInfo wrong = infos.removeLast();
            infos.add(info(wrong.name(), 9));
            infos.add(info(family.filePrefix() + "layers.0.self_attn.strange", 2));
            infos.add(last);
            try (PretrainedModel model = PretrainedModel.open(folder(family + "-not", config, infos))) {
                refused(model::check, "wrong shape: ", "[9] instead of [8]", "unexpected: layers.0.self_attn.strange");
            }
        }
    }

    private static TensorInfo info(String name, long... shape) {
        return new TensorInfo(name, StoredType.F32, shape);
    }

    private Path folder(String name, String config, List<TensorInfo> infos) throws IOException {
        Path target = Files.createDirectories(folder.resolve(name));
        Files.writeString(target.resolve("config.json"), config);
        try (TensorWriter writer = SafetensorsWriter.create(target.resolve("model.safetensors"), infos, Map.of())) {
            for (TensorInfo info : infos) {
                writer.append(info.name(), FloatBuffer.allocate((int) info.elements()));
            }
        }
        return target;
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
