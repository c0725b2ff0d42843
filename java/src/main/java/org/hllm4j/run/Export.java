package org.hllm4j.run;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.Parameter;
import org.hllm4j.weights.PendingFile;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TorchCheckpointWriter;

/** The trained model for other programs. */
public final class Export {
    private Export() {}

    /**
     * Two folders that Hugging Face's classes load, {@code item_llm} (with the tokenizer) and {@code user_llm}. The User
     * LLM has one unused word embedding: its inputs are vectors.
     */
    public static void huggingFace(Hllm model, String tokenizerJson, Path folder) {
        RunFolder.writeSide(model, Hllm.Side.ITEM, folder.resolve("item_llm"));
        PendingFile.write(
                folder.resolve("item_llm/tokenizer.json"), tokenizerJson.getBytes(StandardCharsets.UTF_8));
        RunFolder.writeSide(model, Hllm.Side.USER, folder.resolve("user_llm"));
    }

    /**
     * A checkpoint with the names and shapes of the official code, for its {@code load_pretrain}. The User LLM's word
     * embeddings, which that code neither uses nor trains, and the output layers are left out.
     */
    public static void officialCheckpoint(Hllm model, Path file) {
        List<TensorInfo> infos = new ArrayList<>();
        for (Parameter parameter : model.parameters().all()) {
            infos.add(new TensorInfo(parameter.name(), StoredType.F32, officialShape(model, parameter)));
        }
        try (TorchCheckpointWriter writer = TorchCheckpointWriter.create(file, infos)) {
            for (Parameter parameter : model.parameters().all()) {
                RunFolder.append(writer, parameter.name(), parameter.value());
            }
        }
    }

    private static long[] officialShape(Hllm model, Parameter parameter) {
        return switch (parameter.name()) {
            case Hllm.LOGIT_SCALE -> new long[0];
            case Hllm.ITEM_TOKEN -> new long[] {1, 1, model.config().width()};
            default -> parameter.value().shape();
        };
    }
}
