package org.hllm4j.weights;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/** Writes a safetensors file of F32, BF16 and I64 tensors. */
public final class SafetensorsWriter extends TensorWriter {
    /** Byte position in the file of each tensor, in declared order. */
    private final long[] starts;

    private final ByteBuffer header;

    private SafetensorsWriter(Path target, List<TensorInfo> tensors, Map<String, String> metadata) {
        super(target, tensors, EnumSet.of(StoredType.F32, StoredType.BF16, StoredType.I64));
        starts = new long[tensors.size()];
        Map<String, Object> entries = new LinkedHashMap<>();
        if (!metadata.isEmpty()) {
            entries.put("__metadata__", new TreeMap<>(metadata));
        }
        // wide types first: then every tensor is aligned to its own element size
        int[] order = IntStream.range(0, starts.length)
                .boxed()
                .sorted((a, b) -> tensors.get(b).type().blockBytes()
                        - tensors.get(a).type().blockBytes())
                .mapToInt(Integer::intValue)
                .toArray();
        long end = 0;
        for (int index : order) {
            TensorInfo info = tensors.get(index);
            starts[index] = end;
            end += info.bytes();
            entries.put(info.name(), entry(info, starts[index]));
        }
        header = header(entries);
        for (int i = 0; i < starts.length; i++) {
            starts[i] += header.capacity();
        }
    }

    private static Map<String, Object> entry(TensorInfo info, long begin) {
        return Json.fields("dtype", info.type().name(), "shape", info.shape(), "data_offsets", new long[] {
            begin, begin + info.bytes()
        });
    }

    private static ByteBuffer header(Map<String, Object> entries) {
        byte[] json = Json.write(entries).getBytes(StandardCharsets.UTF_8);
        int padded = Math.ceilDiv(json.length, 8) * 8;
        ByteBuffer header = ByteBuffer.allocate(8 + padded).order(ByteOrder.LITTLE_ENDIAN);
        header.putLong(padded).put(json);
        while (header.hasRemaining()) {
            header.put((byte) ' ');
        }
        return header;
    }

    /**
     * Starts a file.
     *
     * @param target appears when the complete writer is closed
     * @param tensors of type F32, BF16 or I64, in the order in which they will be appended
     * @param metadata free text, may be empty
     */
    public static SafetensorsWriter create(Path target, List<TensorInfo> tensors, Map<String, String> metadata) {
        if (tensors.stream().anyMatch(info -> info.name().equals("__metadata__"))) {
            throw new HllmException(target + ": '__metadata__' is not a tensor name");
        }
        return new SafetensorsWriter(target, tensors, metadata);
    }

    /**
     * Writes {@code model.safetensors.index.json}, which says in which file of a folder each tensor lies.
     *
     * @param fileOf file name by tensor name
     * @param bytes of all tensors
     */
    public static void index(Path folder, Map<String, String> fileOf, long bytes) {
        byte[] json = Json.write(Json.fields("metadata", Map.of("total_size", bytes), "weight_map", fileOf))
                .getBytes(StandardCharsets.UTF_8);
        PendingFile.write(folder.resolve("model.safetensors.index.json"), json);
    }

    /**
     * Starts a file of one float32 matrix [rows, columns] whose rows come in any order and across restarts.
     *
     * @param resume whether to continue {@code <target>.partial} where there is one, begun with the same shape
     */
    public static RowFile rows(Path target, String name, long rows, int columns, boolean resume) {
        TensorInfo info = TensorInfo.in(target.toString(), name, StoredType.F32, new long[] {rows, columns});
        byte[] header = header(Map.of(name, entry(info, 0))).array();
        return new RowFile(target, header, rows, columns, resume);
    }

    @Override
    void write(int index, long offset, ByteBuffer bytes) {
        file.write(bytes, starts[index] + offset);
    }

    @Override
    void finish() {
        file.write(header.flip(), 0);
    }
}
