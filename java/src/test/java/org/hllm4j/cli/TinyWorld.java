package org.hllm4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.io.UncheckedIOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.hllm4j.text.ByteTokenizer;
import org.hllm4j.weights.SafetensorsWriter;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorInfo;

/** A random Llama, an invented catalogue and an invented log, small enough to train within a second. */
record TinyWorld(Path llm, Path items, Path interactions) {
    static final int ITEMS = 60;
    static final int USERS = 40;
    static final int WIDTH = 32;
    private static final int LAYERS = 2;
    private static final int VOCABULARY = 256;
    private static final int INTERMEDIATE = 48;

    /** What a command printed, and its exit code. */
    record Ran(int code, String out, String err) {}

    static Ran run(Object... arguments) {
        StringWriter out = new StringWriter();
        StringWriter err = new StringWriter();
        String[] texts = new String[arguments.length];
        for (int i = 0; i < texts.length; i++) {
            texts[i] = arguments[i].toString();
        }
        int code = Main.run(new PrintWriter(out, true), new PrintWriter(err, true), texts);
        return new Ran(code, out.toString(), err.toString());
    }

    /** The command that embeds the titles. */
    Object[] embed(Path model, Path out, Object... more) {
        List<Object> command = new ArrayList<>(
                List.of("embed", "--llm", model, "--items", items, "--text-keys", "title", "--out", out));
        command.addAll(List.of(more));
        return command.toArray();
    }

    static TinyWorld in(Path folder) {
        return in(folder, StoredType.F32);
    }

    /** With weights that are stored in this type. */
    static TinyWorld in(Path folder, StoredType type) {
        long seed = 11;
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        try {
            Path llm = Files.createDirectories(folder.resolve("llm"));
            Files.writeString(llm.resolve("config.json"), config());
            Files.writeString(llm.resolve("tokenizer.json"), ByteTokenizer.json());
            weights(llm.resolve("model.safetensors"), type, random);
            return new TinyWorld(
                    llm,
                    Files.writeString(folder.resolve("items.csv"), itemsCsv()),
                    Files.writeString(folder.resolve("interactions.csv"), interactionsCsv(random)));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Items of three kinds. */
    private static String itemsCsv() {
        StringBuilder csv = new StringBuilder("item_id,title,tag\n");
        for (int i = 0; i < ITEMS; i++) {
            csv.append("i%d,\"Story %d, part %d\",%s\n"
                    .formatted(i, i % 20, i / 20, List.of("sea", "war", "love").get(i % 3)));
        }
        return csv.toString();
    }

    /** Every user keeps to one kind; user 0 has two events only. */
    private static String interactionsCsv(Random random) {
        StringBuilder csv = new StringBuilder("user_id,item_id,timestamp\n");
        for (int user = 0; user < USERS; user++) {
            int events = user == 0 ? 2 : 5 + random.nextInt(8);
            for (int e = 0; e < events; e++) {
                csv.append("u%d,i%d,%d\n".formatted(user, 3 * random.nextInt(ITEMS / 3) + user % 3, 1000 + e));
            }
        }
        return csv.toString();
    }

    private static String config() {
        return """
            {"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu","hidden_size":%d,
             "intermediate_size":%d,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,
             "num_hidden_layers":%d,"vocab_size":%d,"rms_norm_eps":1e-5,"rope_theta":10000.0,
             "max_position_embeddings":256,"initializer_range":0.02,"tie_word_embeddings":true,
             "attention_bias":false,"mlp_bias":false,"torch_dtype":"float32"}\
            """.formatted(WIDTH, INTERMEDIATE, LAYERS, VOCABULARY);
    }

    private static void weights(Path file, StoredType type, Random random) {
        List<TensorInfo> shapes = new ArrayList<>();
        shapes.add(tensor("embed_tokens.weight", VOCABULARY, WIDTH));
        for (int i = 0; i < LAYERS; i++) {
            String layer = "layers." + i + ".";
            shapes.add(tensor(layer + "input_layernorm.weight", WIDTH));
            shapes.add(tensor(layer + "self_attn.q_proj.weight", WIDTH, WIDTH));
            shapes.add(tensor(layer + "self_attn.k_proj.weight", WIDTH / 2, WIDTH));
            shapes.add(tensor(layer + "self_attn.v_proj.weight", WIDTH / 2, WIDTH));
            shapes.add(tensor(layer + "self_attn.o_proj.weight", WIDTH, WIDTH));
            shapes.add(tensor(layer + "post_attention_layernorm.weight", WIDTH));
            shapes.add(tensor(layer + "mlp.gate_proj.weight", INTERMEDIATE, WIDTH));
            shapes.add(tensor(layer + "mlp.up_proj.weight", INTERMEDIATE, WIDTH));
            shapes.add(tensor(layer + "mlp.down_proj.weight", WIDTH, INTERMEDIATE));
        }
        shapes.add(tensor("norm.weight", WIDTH));
        List<TensorInfo> infos = shapes.stream()
                .map(info -> new TensorInfo(info.name(), type, info.shape()))
                .toList();
        try (SafetensorsWriter writer = SafetensorsWriter.create(file, infos, Map.of("format", "pt"))) {
            for (TensorInfo info : infos) {
                float[] values = new float[(int) info.elements()];
                for (int i = 0; i < values.length; i++) {
                    values[i] = info.shape().length == 1 ? 1 : 0.2f * (float) random.nextGaussian();
                }
                writer.append(info.name(), FloatBuffer.wrap(values));
            }
        }
    }

    private static TensorInfo tensor(String name, long... shape) {
        return new TensorInfo("model." + name, StoredType.F32, shape);
    }
}
