package org.hllm4j.weights;

import com.fasterxml.jackson.databind.JsonNode;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * Tensors in the safetensors format: an 8-byte length, a JSON header, then the data. The header is checked whole before
 * anything is read: sizes match shapes, and the tensors fill the data without gaps or overlap.
 */
public final class Safetensors extends TensorFile {
    /** The limit of the format's own reader. */
    private static final long MAX_HEADER = 100_000_000;

    private static final int MAX_RANK = 16;

    private record Extent(String name, long begin, long end) {}

    private final Map<String, String> metadata = new LinkedHashMap<>();

    private Safetensors(String origin) {
        super(origin);
    }

    /** Maps one file. */
    public static Safetensors open(Path file) {
        Safetensors source = new Safetensors(file.toString());
        source.loadFile(file);
        return source;
    }

    /** Maps {@code model.safetensors}, or the shards that {@code model.safetensors.index.json} lists. */
    public static Safetensors openFolder(Path folder) {
        Safetensors source = new Safetensors(folder.toString());
        source.loadFolder(folder, "model.safetensors");
        return source;
    }

    /** The header's {@code __metadata__}; with shards, of all of them. */
    public Map<String, String> metadata() {
        return Collections.unmodifiableMap(metadata);
    }

    /** All elements of an I64 or I32 tensor, row-major. */
    public long[] readLongs(String name) {
        TensorInfo info = info(name);
        if (info.type() != StoredType.I64 && info.type() != StoredType.I32) {
            throw new HllmException(origin() + ": tensor '" + name + "' is " + info.type() + ", expected I64 or I32");
        }
        if (info.bytes() > Integer.MAX_VALUE) {
            throw new HllmException(origin() + ": tensor '" + name + "' is too large to read at once");
        }
        try {
            var bytes =
                    ((StoredTensor.Contiguous) find(name)).data().asByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
            long[] values = new long[(int) info.elements()];
            if (info.type() == StoredType.I64) {
                bytes.asLongBuffer().get(values);
            } else {
                Arrays.setAll(values, bytes.asIntBuffer()::get);
            }
            return values;
        } catch (IllegalStateException e) {
            throw new HllmException(origin() + ": read of tensor '" + name + "' after close", e);
        }
    }

    @Override
    void add(MappedFile file, Map<String, StoredTensor> into) {
        String origin = file.origin();
        ByteCursor cursor = new ByteCursor(file.bytes(), origin);
        long length = cursor.i64("length of the header");
        if (length < 2 || length > MAX_HEADER) {
            throw new HllmException(origin + ": not a safetensors file: header of " + Long.toUnsignedString(length)
                    + " bytes, expected 2 to " + MAX_HEADER);
        }
        JsonNode header = Json.object(cursor.utf8(length, "header"), origin);
        MemorySegment data = file.bytes().asSlice(cursor.position());
        List<Extent> extents = new ArrayList<>();
        header.forEachEntry((name, entry) -> {
            if (name.equals("__metadata__")) {
                readMetadata(origin, entry);
            } else {
                Extent extent = extent(origin, name, entry, data.byteSize());
                extents.add(extent);
                TensorInfo info = info(origin, name, entry);
                if (info.bytes() != extent.end - extent.begin) {
                    throw new HllmException(origin + ": tensor " + info + " needs " + info.bytes()
                            + " bytes, its data_offsets span " + (extent.end - extent.begin));
                }
                MemorySegment bytes = data.asSlice(extent.begin, extent.end - extent.begin);
                into.put(name, new StoredTensor.Contiguous(info, bytes));
            }
        });
        extents.sort(Comparator.comparingLong(Extent::begin).thenComparingLong(Extent::end));
        long end = 0;
        for (Extent extent : extents) {
            if (extent.begin != end) {
                throw new HllmException(origin + ": tensor '" + extent.name + "' begins at byte " + extent.begin
                        + " of the data, expected " + end + ": tensors must not overlap or leave gaps");
            }
            end = extent.end;
        }
        if (end != data.byteSize()) {
            throw new HllmException(origin + ": " + data.byteSize() + " bytes of data, but the header describes " + end
                    + "; the file is damaged");
        }
    }

    private void readMetadata(String origin, JsonNode entry) {
        if (!entry.isObject()) {
            throw new HllmException(origin + ": __metadata__ is not an object");
        }
        entry.forEachEntry((key, value) -> {
            if (!value.isTextual()) {
                throw new HllmException(origin + ": __metadata__ '" + key + "' is not a string");
            }
            metadata.put(key, value.textValue());
        });
    }

    private static TensorInfo info(String origin, String name, JsonNode entry) {
        String dtype = entry.path("dtype").asText();
        StoredType type = switch (dtype) {
            case "F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL" -> StoredType.valueOf(dtype);
            default ->
                throw new HllmException(origin + ": tensor '" + name + "' has dtype '" + dtype
                        + "', expected F64, F32, F16, BF16, I64, I32, I8, U8 or BOOL");
        };
        return TensorInfo.in(origin, name, type, longs(origin, name, entry, "shape", MAX_RANK));
    }

    private static Extent extent(String origin, String name, JsonNode entry, long size) {
        long[] offsets = longs(origin, name, entry, "data_offsets", 2);
        if (offsets.length != 2 || offsets[0] > offsets[1] || offsets[1] > size) {
            throw new HllmException(origin + ": tensor '" + name + "' has data_offsets " + Arrays.toString(offsets)
                    + ", expected begin <= end <= " + size + "; the file is damaged or truncated");
        }
        return new Extent(name, offsets[0], offsets[1]);
    }

    private static long[] longs(String origin, String name, JsonNode entry, String key, int most) {
        JsonNode array = entry.path(key);
        if (!array.isArray() || array.size() > most) {
            throw new HllmException(
                    origin + ": tensor '" + name + "': " + key + " must be an array of at most " + most + " numbers");
        }
        long[] values = new long[array.size()];
        for (int i = 0; i < values.length; i++) {
            JsonNode value = array.get(i);
            if (!value.isIntegralNumber() || !value.canConvertToLong() || value.longValue() < 0) {
                throw new HllmException(origin + ": tensor '" + name + "': " + key + " holds " + value
                        + ", expected a whole number that is not negative");
            }
            values[i] = value.longValue();
        }
        return values;
    }
}
