package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.hllm4j.HllmException;

/**
 * A GGUF file, version 2 or 3: metadata and tensors. For the architecture "llama" the tensors appear as in a Hugging
 * Face checkpoint: its names ({@code model.layers.0.self_attn.q_proj.weight}), its row-major shapes and its order of
 * the rows of Q and K. Tensors of a quantisation that is not in {@link StoredType} are listed, and refused when they
 * are asked for.
 */
public final class Gguf extends TensorFile {
    static final int MAGIC = 0x46554747;
    private static final int MAX_RANK = 4;
    private static final int MAX_ARRAY = 1 << 24;
    private static final int MAX_DEPTH = 4;
    private static final int STRING = 8;
    private static final int ARRAY = 9;

    private static final Map<Integer, StoredType> TYPES = Map.ofEntries(
            Map.entry(0, StoredType.F32),
            Map.entry(1, StoredType.F16),
            Map.entry(2, StoredType.Q4_0),
            Map.entry(3, StoredType.Q4_1),
            Map.entry(8, StoredType.Q8_0),
            Map.entry(24, StoredType.I8),
            Map.entry(26, StoredType.I32),
            Map.entry(27, StoredType.I64),
            Map.entry(28, StoredType.F64),
            Map.entry(30, StoredType.BF16));

    /** Names of the other types, for messages. */
    private static final Map<Integer, String> OTHER_TYPES = Map.ofEntries(
            Map.entry(6, "Q5_0"),
            Map.entry(7, "Q5_1"),
            Map.entry(9, "Q8_1"),
            Map.entry(10, "Q2_K"),
            Map.entry(11, "Q3_K"),
            Map.entry(12, "Q4_K"),
            Map.entry(13, "Q5_K"),
            Map.entry(14, "Q6_K"),
            Map.entry(15, "Q8_K"),
            Map.entry(16, "IQ2_XXS"),
            Map.entry(17, "IQ2_XS"),
            Map.entry(18, "IQ3_XXS"),
            Map.entry(19, "IQ1_S"),
            Map.entry(20, "IQ4_NL"),
            Map.entry(21, "IQ3_S"),
            Map.entry(22, "IQ2_S"),
            Map.entry(23, "IQ4_XS"),
            Map.entry(25, "I16"),
            Map.entry(29, "IQ1_M"),
            Map.entry(34, "TQ1_0"),
            Map.entry(35, "TQ2_0"),
            Map.entry(39, "MXFP4"));

    private static final Pattern BLOCK = Pattern.compile("blk\\.(\\d+)\\.(\\w+)\\.(weight|bias)");
    private static final Map<String, String> LAYER_NAMES = Map.ofEntries(
            Map.entry("attn_norm", "input_layernorm"),
            Map.entry("attn_q", "self_attn.q_proj"),
            Map.entry("attn_k", "self_attn.k_proj"),
            Map.entry("attn_v", "self_attn.v_proj"),
            Map.entry("attn_q_norm", "self_attn.q_norm"),
            Map.entry("attn_k_norm", "self_attn.k_norm"),
            Map.entry("attn_output", "self_attn.o_proj"),
            Map.entry("ffn_norm", "post_attention_layernorm"),
            Map.entry("ffn_gate", "mlp.gate_proj"),
            Map.entry("ffn_up", "mlp.up_proj"),
            Map.entry("ffn_down", "mlp.down_proj"));
    private static final Map<String, String> OTHER_NAMES = Map.of(
            "token_embd.weight", "model.embed_tokens.weight",
            "output_norm.weight", "model.norm.weight",
            "output.weight", "lm_head.weight");

    private record Extent(String name, long begin, long end) {}

    private record Declared(String name, int type, long[] shape, long offset) {}

    private final Map<String, Object> metadata = new LinkedHashMap<>();

    private Gguf(String origin) {
        super(origin);
    }

    /** Maps a file and reads its metadata and tensor table. */
    public static Gguf open(Path file) {
        Gguf gguf = new Gguf(file.toString());
        gguf.loadFile(file);
        return gguf;
    }

    /**
     * All metadata. Integers are Long, floats Float or Double, texts String; arrays are {@code long[]},
     * {@code float[]}, {@code double[]}, {@code boolean[]}, {@code List<String>} or a List of arrays.
     */
    public Map<String, Object> metadata() {
        return Collections.unmodifiableMap(metadata);
    }

    public boolean has(String key) {
        return metadata.containsKey(key);
    }

    public String string(String key) {
        return value(key, String.class, "a string");
    }

    public String string(String key, String otherwise) {
        return has(key) ? string(key) : otherwise;
    }

    public long integer(String key) {
        return value(key, Long.class, "an integer");
    }

    public long integer(String key, long otherwise) {
        return has(key) ? integer(key) : otherwise;
    }

    /** A float; a float32 is widened so that it keeps its decimal spelling (1e-5 stays 1e-5). */
    public double real(String key) {
        Number number = value(key, Number.class, "a number");
        return number instanceof Float ? Double.parseDouble(number.toString()) : number.doubleValue();
    }

    public double real(String key, double otherwise) {
        return has(key) ? real(key) : otherwise;
    }

    public boolean flag(String key, boolean otherwise) {
        return has(key) ? value(key, Boolean.class, "true or false") : otherwise;
    }

    public List<String> strings(String key) {
        List<?> list = value(key, List.class, "an array of strings");
        if (!list.isEmpty() && !(list.get(0) instanceof String)) {
            throw wrongKind(key, "an array of strings");
        }
        return list.stream().map(String.class::cast).toList();
    }

    /** The array itself, not a copy. */
    public long[] integers(String key) {
        return value(key, long[].class, "an array of integers");
    }

    /** The array itself, not a copy. */
    public float[] reals(String key) {
        return value(key, float[].class, "an array of float32");
    }

    private <T> T value(String key, Class<T> type, String expected) {
        Object value = metadata.get(key);
        if (value == null) {
            throw new HllmException(origin() + ": metadata '" + key + "' is missing, expected " + expected);
        }
        if (!type.isInstance(value)) {
            throw wrongKind(key, expected);
        }
        return type.cast(value);
    }

    private HllmException wrongKind(String key, String expected) {
        return new HllmException(origin() + ": metadata '" + key + "' is not " + expected);
    }

    @Override
    void add(MappedFile file, Map<String, StoredTensor> into) {
        ByteCursor in = new ByteCursor(file.bytes(), origin());
        if (in.remaining() < 4 || in.i32("magic") != MAGIC) {
            throw new HllmException(origin() + ": not a GGUF file (a Hugging Face model is given as its folder)");
        }
        int version = in.i32("version");
        if (version != 2 && version != 3) {
            int swapped = Integer.reverseBytes(version);
            String what = swapped == 2 || swapped == 3 ? "big-endian" : "version " + version;
            throw new HllmException(
                    origin() + ": GGUF " + what + ", expected little-endian version 2 or 3; convert it again");
        }
        long tensorCount = count(in, in.i64("number of tensors"), 24, "tensors");
        long valueCount = count(in, in.i64("number of metadata values"), 13, "metadata values");
        for (long i = 0; i < valueCount; i++) {
            String key = in.utf8(in.i64("length of a metadata key"), "metadata key");
            Object value = readValue(in, in.i32("type of '" + key + "'"), key, 0);
            if (metadata.put(key, value) != null) {
                throw new HllmException(origin() + ": metadata '" + key + "' is there twice");
            }
        }
        if (integer("split.count", 1) > 1) {
            throw new HllmException(
                    origin() + ": is one part of a split model; join the parts with " + "llama-gguf-split --merge");
        }
        List<Declared> declared = new ArrayList<>();
        for (long i = 0; i < tensorCount; i++) {
            declared.add(readDeclaration(in));
        }
        long alignment = integer("general.alignment", 32);
        if (alignment < 1 || alignment > 1 << 20 || Long.bitCount(alignment) != 1) {
            throw new HllmException(origin() + ": general.alignment is " + alignment + ", expected a power of two");
        }
        long start = Math.ceilDiv(in.position(), alignment) * alignment;
        if (tensorCount > 0) {
            in.seek(start, "data of the tensors");
            addTensors(declared, file.bytes().asSlice(start), alignment, into);
        }
    }

    /** A count from the file, checked against the bytes that so many items need at least. */
    private long count(ByteCursor in, long count, int leastBytes, String what) {
        if (count < 0 || count > in.remaining() / leastBytes) {
            throw new HllmException(origin() + ": says it holds " + Long.toUnsignedString(count) + " " + what
                    + ", but only " + in.remaining() + " bytes follow; the file is damaged or truncated");
        }
        return count;
    }

    private Object readValue(ByteCursor in, int type, String key, int depth) {
        return switch (type) {
            case 6 -> in.f32(key);
            case 7 -> in.u8(key) != 0;
            case STRING -> in.utf8(in.i64("length of '" + key + "'"), key);
            case ARRAY -> readArray(in, key, depth);
            case 12 -> in.f64(key);
            default -> readInteger(in, type, key);
        };
    }

    private long readInteger(ByteCursor in, int type, String key) {
        return switch (type) {
            case 0 -> in.u8(key);
            case 1 -> (byte) in.u8(key);
            case 2 -> in.u16(key);
            case 3 -> (short) in.u16(key);
            case 4 -> in.u32(key);
            case 5 -> in.i32(key);
            case 10, 11 -> in.i64(key);
            default -> throw new HllmException(origin() + ": metadata '" + key + "' has the unknown type " + type);
        };
    }

    private Object readArray(ByteCursor in, String key, int depth) {
        int type = in.i32("array type of '" + key + "'");
        int least = switch (type) {
            case 0, 1, 7 -> 1;
            case 2, 3 -> 2;
            case 4, 5, 6 -> 4;
            case ARRAY -> 12;
            default -> 8;
        };
        long count = count(in, in.i64("array length of '" + key + "'"), least, "items in '" + key + "'");
        if (count > MAX_ARRAY || depth == MAX_DEPTH) {
            throw new HllmException(origin() + ": metadata '" + key + "' has " + count + " items at depth " + depth
                    + ", expected at most " + MAX_ARRAY + " and depth " + MAX_DEPTH);
        }
        int length = (int) count;
        switch (type) {
            case 6 -> {
                float[] values = new float[length];
                for (int i = 0; i < length; i++) {
                    values[i] = in.f32(key);
                }
                return values;
            }
            case 7 -> {
                boolean[] values = new boolean[length];
                for (int i = 0; i < length; i++) {
                    values[i] = in.u8(key) != 0;
                }
                return values;
            }
            case 12 -> {
                double[] values = new double[length];
                for (int i = 0; i < length; i++) {
                    values[i] = in.f64(key);
                }
                return values;
            }
            case STRING, ARRAY -> {
                List<Object> values = new ArrayList<>(length);
                for (int i = 0; i < length; i++) {
                    values.add(readValue(in, type, key, depth + 1));
                }
                return Collections.unmodifiableList(values);
            }
            default -> {
                long[] values = new long[length];
                for (int i = 0; i < length; i++) {
                    values[i] = readInteger(in, type, key);
                }
                return values;
            }
        }
    }

    private Declared readDeclaration(ByteCursor in) {
        String name = in.utf8(in.i64("length of a tensor name"), "tensor name");
        long rank = in.u32("rank of '" + name + "'");
        if (rank > MAX_RANK) {
            throw new HllmException(
                    origin() + ": tensor '" + name + "' has rank " + rank + ", expected at most " + MAX_RANK);
        }
        long[] shape = new long[(int) rank];
        // GGUF lists the fastest dimension first
        for (int d = shape.length - 1; d >= 0; d--) {
            shape[d] = in.i64("shape of '" + name + "'");
        }
        return new Declared(name, in.i32("type of '" + name + "'"), shape, in.i64("offset of '" + name + "'"));
    }

    private void addTensors(
            List<Declared> declared, MemorySegment data, long alignment, Map<String, StoredTensor> into) {
        List<Extent> extents = new ArrayList<>();
        for (Declared tensor : declared) {
            long offset = tensor.offset;
            if (offset < 0 || offset > data.byteSize() || offset % alignment != 0) {
                throw new HllmException(origin() + ": tensor '" + tensor.name + "' at byte "
                        + Long.toUnsignedString(offset) + " of the data, expected a multiple of " + alignment
                        + " up to " + data.byteSize()
                        + "; the file is damaged or truncated");
            }
            String name = huggingFaceName(tensor.name);
            if (into.put(name, stored(tensor, name, data, extents)) != null) {
                throw new HllmException(origin() + ": tensor '" + tensor.name + "' is there twice");
            }
        }
        extents.sort(Comparator.comparingLong(Extent::begin).thenComparingLong(Extent::end));
        long end = 0;
        for (Extent extent : extents) {
            if (extent.begin < end) {
                throw new HllmException(origin() + ": tensor '" + extent.name + "' overlaps another one");
            }
            end = extent.end;
        }
    }

    private StoredTensor stored(Declared tensor, String name, MemorySegment data, List<Extent> extents) {
        StoredType type = TYPES.get(tensor.type);
        if (type == null) {
            String what = OTHER_TYPES.getOrDefault(tensor.type, "of unknown number " + tensor.type);
            return new StoredTensor.Unreadable(origin() + ": tensor '" + name + "' is stored as type " + what
                    + ", which is not read; use a file with F32, F16, BF16, Q8_0, Q4_0 or Q4_1");
        }
        TensorInfo info = TensorInfo.in(origin(), name, type, tensor.shape);
        long row = tensor.shape.length == 0 ? 1 : tensor.shape[tensor.shape.length - 1];
        if (row % type.blockElements() != 0) {
            throw new HllmException(origin() + ": tensor " + info + ": rows are not a multiple of "
                    + type.blockElements() + " elements");
        }
        if (info.bytes() > data.byteSize() - tensor.offset) {
            throw new HllmException(origin() + ": tensor " + info + " of " + info.bytes() + " bytes at byte "
                    + tensor.offset + " passes the end of the data, " + data.byteSize() + "; the file is truncated");
        }
        extents.add(new Extent(name, tensor.offset, tensor.offset + info.bytes()));
        StoredTensor.Contiguous stored = new StoredTensor.Contiguous(info, data.asSlice(tensor.offset, info.bytes()));
        boolean isQ = name.endsWith(".self_attn.q_proj.weight");
        boolean turned = architecture().equals("llama"); // the other architectures keep their rows as they were
        if (!turned || !isQ && !name.endsWith(".self_attn.k_proj.weight")) {
            return stored;
        }
        long heads = integer("llama.attention.head_count");
        heads = isQ ? heads : integer("llama.attention.head_count_kv", heads);
        if (tensor.shape.length != 2 || heads < 1 || heads > 1 << 20 || tensor.shape[0] % (2 * heads) != 0) {
            throw new HllmException(
                    origin() + ": tensor " + info + ": rows cannot be divided among " + heads + " heads");
        }
        return new StoredTensor.HeadRows(stored, heads);
    }

    private String huggingFaceName(String name) {
        // with another architecture the same names mean other things
        if (!GgufConfig.FAMILIES.containsKey(architecture())) {
            return name;
        }
        Matcher block = BLOCK.matcher(name);
        if (block.matches() && LAYER_NAMES.containsKey(block.group(2))) {
            return "model.layers." + block.group(1) + "." + LAYER_NAMES.get(block.group(2)) + "." + block.group(3);
        }
        return OTHER_NAMES.getOrDefault(name, name);
    }

    private String architecture() {
        return String.valueOf(metadata.get("general.architecture"));
    }
}
