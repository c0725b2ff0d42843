package org.hllm4j.run;

import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.Parameter;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.PendingFile;
import org.hllm4j.weights.RowFile;
import org.hllm4j.weights.SafetensorsWriter;
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
        PendingFile.write(folder.resolve("item_llm/tokenizer.json"), tokenizerJson.getBytes(StandardCharsets.UTF_8));
        RunFolder.writeSide(model, Hllm.Side.USER, folder.resolve("user_llm"));
    }

    /**
     * A checkpoint with the names and shapes of the official code, for its {@code load_pretrain}. The User LLM's word
     * embeddings, which that code neither uses nor trains, and the output layers are left out.
     */
    public static void officialCheckpoint(Hllm model, Path file) {
        List<TensorInfo> infos = new ArrayList<>();
        for (Parameter parameter : model.generative()) {
            infos.add(new TensorInfo(parameter.name(), StoredType.F32, officialShape(model, parameter)));
        }
        try (TorchCheckpointWriter writer = TorchCheckpointWriter.create(file, infos)) {
            for (Parameter parameter : model.generative()) {
                model.parameters().read(parameter, values -> RunFolder.append(writer, parameter.name(), values));
            }
        }
    }

    /**
     * Vectors and their ids: {@code NAME.npy} and {@code NAME.safetensors} (a tensor of that name), both float32 [n, D],
     * and {@code NAME.ids} (see {@link IdFile}).
     *
     * @param pieces the vectors in the order of the ids, any number of whole ones at a time
     * @param metadata of the safetensors file: what the vectors belong to
     */
    public static void vectors(
            Path folder,
            String name,
            List<String> ids,
            int width,
            Iterator<FloatBuffer> pieces,
            Map<String, String> metadata) {
        RunFolder.create(folder);
        TensorInfo info = new TensorInfo(name, StoredType.F32, new long[] {ids.size(), width});
        try (RowFile npy = Npy.create(folder.resolve(name + ".npy"), ids.size(), width);
                SafetensorsWriter tensors =
                        SafetensorsWriter.create(folder.resolve(name + ".safetensors"), List.of(info), metadata)) {
            long row = 0;
            while (pieces.hasNext()) {
                FloatBuffer piece = pieces.next();
                int rows = piece.remaining() / width;
                npy.write(row, piece.duplicate());
                tensors.append(name, piece);
                row += rows;
            }
            IdFile.write(folder.resolve(name + ".ids"), ids);
            npy.finish();
        }
    }

    private static long[] officialShape(Hllm model, Parameter parameter) {
        return switch (parameter.name()) {
            case Hllm.LOGIT_SCALE -> new long[0];
            case Hllm.ITEM_TOKEN -> new long[] {1, 1, model.config().item().hiddenSize()};
            default -> parameter.value().shape();
        };
    }
}
