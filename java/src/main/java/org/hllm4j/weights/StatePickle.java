package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * Reads the pickle of a state dict without running anything: it understands plain values, containers and tensors, and
 * refuses every other Python name. Python values become Long, Double, String, Boolean, {@link #NONE}, List (tuple or
 * list), Map (dict) and {@link TensorView}.
 */
final class StatePickle {
    /** Python's None; containers here hold no null. */
    static final Object NONE = new Object();

    private static final Object MARK = new Object();
    private static final long MAX_BYTES = 256L << 20;
    private static final int MAX_RANK = 16;

    private static final Map<String, StoredType> STORAGES = Map.of(
            "FloatStorage", StoredType.F32,
            "HalfStorage", StoredType.F16,
            "BFloat16Storage", StoredType.BF16,
            "DoubleStorage", StoredType.F64,
            "LongStorage", StoredType.I64,
            "IntStorage", StoredType.I32,
            "CharStorage", StoredType.I8,
            "ByteStorage", StoredType.U8,
            "BoolStorage", StoredType.BOOL);

    /** A view into a storage; offset and strides count elements. */
    record TensorView(Storage storage, long offset, long[] shape, long[] strides) {}

    /** The entry {@code data/key} of the archive. */
    record Storage(StoredType type, String key, long elements) {}

    private enum Callable {
        ORDERED_DICT,
        REBUILD_TENSOR,
        REBUILD_PARAMETER
    }

    private final ByteCursor in;
    private final String origin;
    private final ArrayList<Object> stack = new ArrayList<>();
    private final Map<Long, Object> memo = new HashMap<>();

    private StatePickle(MemorySegment data, String origin) {
        if (data.byteSize() > MAX_BYTES) {
            throw new HllmException(origin + ": pickle of " + data.byteSize() + " bytes, expected at most " + MAX_BYTES
                    + " (names and shapes only)");
        }
        this.in = new ByteCursor(data, origin);
        this.origin = origin;
    }

    static Object read(MemorySegment data, String origin) {
        return new StatePickle(data, origin).run();
    }

    private Object run() {
        while (true) {
            int opcode = in.u8("opcode");
            switch (opcode) {
                case 0x80 -> { // PROTO
                    int protocol = in.u8("protocol");
                    if (protocol > 5) {
                        throw damaged("pickle protocol " + protocol + ", expected at most 5");
                    }
                }
                case 0x95 -> in.i64("frame length"); // FRAME
                case '.' -> {
                    return pop();
                }
                case '(' -> stack.add(MARK);
                case '0' -> pop();
                case '1' -> popToMark();
                case '2' -> stack.add(peek());
                case 'N' -> stack.add(NONE);
                case 0x88 -> stack.add(true);
                case 0x89 -> stack.add(false);
                case 'J' -> stack.add((long) in.i32("integer"));
                case 'K' -> stack.add((long) in.u8("integer"));
                case 'M' -> stack.add((long) in.u16("integer"));
                case 0x8a -> stack.add(integer(in.u8("integer length"))); // LONG1
                case 0x8b -> stack.add(integer(in.u32("integer length"))); // LONG4
                case 'G' -> stack.add(Double.longBitsToDouble(Long.reverseBytes(in.i64("float"))));
                case 'X' -> stack.add(in.utf8(in.u32("string length"), "string"));
                case 'U', 0x8c -> stack.add(in.utf8(in.u8("string length"), "string"));
                case 'T' -> stack.add(in.utf8(in.u32("string length"), "string"));
                case 0x8d -> stack.add(in.utf8(in.i64("string length"), "string"));
                case ')' -> stack.add(List.of());
                case 't' -> stack.add(List.copyOf(popToMark()));
                case 0x85 -> stack.add(List.copyOf(popLast(1)));
                case 0x86 -> stack.add(List.copyOf(popLast(2)));
                case 0x87 -> stack.add(List.copyOf(popLast(3)));
                case ']' -> stack.add(new ArrayList<>());
                case 'l' -> stack.add(popToMark());
                case 'a' -> {
                    Object item = pop();
                    list().add(item);
                }
                case 'e' -> {
                    List<Object> items = popToMark();
                    list().addAll(items);
                }
                case '}' -> stack.add(new LinkedHashMap<>());
                case 'd' -> {
                    List<Object> items = popToMark();
                    stack.add(new LinkedHashMap<>());
                    putAll(items);
                }
                case 's' -> putAll(popLast(2));
                case 'u' -> putAll(popToMark());
                case 'q' -> memo.put((long) in.u8("memo index"), peek());
                case 'r' -> memo.put(in.u32("memo index"), peek());
                case 0x94 -> memo.put((long) memo.size(), peek()); // MEMOIZE
                case 'h' -> stack.add(recall(in.u8("memo index")));
                case 'j' -> stack.add(recall(in.u32("memo index")));
                case 'c' -> stack.add(global(line(), line()));
                case 0x93 -> { // STACK_GLOBAL
                    String name = string(pop());
                    stack.add(global(string(pop()), name));
                }
                case 'Q' -> stack.add(storage(pop()));
                case 'R' -> {
                    List<?> arguments = tuple(pop());
                    stack.add(call(pop(), arguments));
                }
                case 'b' -> { // BUILD: only the attributes of an OrderedDict, such as _metadata, which carry no data
                    pop();
                    if (!(peek() instanceof Map)) {
                        throw damaged("BUILD of an object that is not a dict");
                    }
                }
                default ->
                    throw damaged("pickle opcode 0x" + Integer.toHexString(opcode) + ", which a state dict "
                            + "does not need; save a plain state dict with torch.save(model.state_dict(), path)");
            }
        }
    }

    private Object global(String module, String name) {
        if (module.equals("torch") && STORAGES.containsKey(name)) {
            return STORAGES.get(name);
        }
        return switch (module + "." + name) {
            case "collections.OrderedDict" -> Callable.ORDERED_DICT;
            case "torch._utils._rebuild_tensor_v2" -> Callable.REBUILD_TENSOR;
            case "torch._utils._rebuild_parameter" -> Callable.REBUILD_PARAMETER;
            default ->
                throw new HllmException(origin + ": refused: the pickle asks for the Python name '" + module
                        + "." + name
                        + "', which a state dict does not need (nothing was executed); save a plain state dict "
                        + "with torch.save(model.state_dict(), path)");
        };
    }

    private Object call(Object callable, List<?> arguments) {
        if (callable == Callable.ORDERED_DICT) {
            if (!arguments.isEmpty()) {
                throw damaged("OrderedDict with arguments");
            }
            return new LinkedHashMap<>();
        }
        if (callable == Callable.REBUILD_PARAMETER) {
            if (arguments.isEmpty() || !(arguments.get(0) instanceof TensorView view)) {
                throw damaged("_rebuild_parameter without a tensor");
            }
            return view;
        }
        if (callable == Callable.REBUILD_TENSOR) {
            if (arguments.size() < 4 || !(arguments.get(0) instanceof Storage storage)) {
                throw damaged("_rebuild_tensor_v2 without storage, offset, size and stride");
            }
            return new TensorView(
                    storage, number(arguments.get(1)), numbers(arguments.get(2)), numbers(arguments.get(3)));
        }
        throw damaged("call of something that is not a function");
    }

    private Storage storage(Object id) {
        List<?> parts = tuple(id);
        if (parts.size() < 5 || !"storage".equals(parts.get(0)) || !(parts.get(1) instanceof StoredType type)) {
            throw damaged("persistent id that is not a storage");
        }
        long elements = number(parts.get(4));
        if (elements < 0 || elements > Long.MAX_VALUE / 8) {
            throw damaged("storage of " + elements + " elements");
        }
        return new Storage(type, string(parts.get(2)), elements);
    }

    private void putAll(List<Object> pairs) {
        if (!(peek() instanceof Map)) {
            throw damaged("items for something that is not a dict");
        }
        @SuppressWarnings("unchecked")
        Map<Object, Object> map = (Map<Object, Object>) peek();
        if (pairs.size() % 2 != 0) {
            throw damaged("dict key without a value");
        }
        for (int i = 0; i < pairs.size(); i += 2) {
            Object key = pairs.get(i);
            // plain keys only: hashing a container could recurse without end
            if (!(key instanceof String || key instanceof Number || key instanceof Boolean || key == NONE)) {
                throw damaged("dict key that is neither a string nor a number");
            }
            map.put(key, pairs.get(i + 1));
        }
    }

    private List<Object> list() {
        // tuples are immutable lists: only an ArrayList came from a Python list
        if (!(peek() instanceof ArrayList)) {
            throw damaged("items for something that is not a list");
        }
        @SuppressWarnings("unchecked")
        List<Object> list = (List<Object>) peek();
        return list;
    }

    private Object peek() {
        if (stack.isEmpty() || stack.getLast() == MARK) {
            throw damaged("pickle stack underflow");
        }
        return stack.getLast();
    }

    private Object pop() {
        peek();
        return stack.removeLast();
    }

    private List<Object> popLast(int count) {
        Object[] items = new Object[count];
        for (int i = count - 1; i >= 0; i--) {
            items[i] = pop();
        }
        return Arrays.asList(items);
    }

    private List<Object> popToMark() {
        int mark = stack.lastIndexOf(MARK);
        if (mark < 0) {
            throw damaged("pickle stack without a mark");
        }
        List<Object> tail = stack.subList(mark, stack.size());
        List<Object> items = new ArrayList<>(tail.subList(1, tail.size()));
        tail.clear();
        return items;
    }

    private Object recall(long index) {
        Object value = memo.get(index);
        if (value == null) {
            throw damaged("memo " + index + " that was never set");
        }
        return value;
    }

    private String line() {
        byte[] bytes = new byte[256];
        for (int length = 0; length < bytes.length; length++) {
            int next = in.u8("Python name");
            if (next == '\n') {
                return new String(bytes, 0, length, StandardCharsets.UTF_8);
            }
            bytes[length] = (byte) next;
        }
        throw damaged("a Python name longer than " + bytes.length + " bytes");
    }

    private long integer(long length) {
        if (length > 8) {
            throw damaged("an integer of " + length + " bytes, expected at most 8");
        }
        byte[] bytes = in.bytes(length, "integer");
        long value = bytes.length == 0 ? 0 : bytes[bytes.length - 1] < 0 ? -1 : 0;
        for (int i = bytes.length - 1; i >= 0; i--) {
            value = value << 8 | bytes[i] & 0xff;
        }
        return value;
    }

    private long number(Object value) {
        if (value instanceof Long number) {
            return number;
        }
        throw damaged("expected an integer");
    }

    private long[] numbers(Object value) {
        List<?> items = tuple(value);
        if (items.size() > MAX_RANK) {
            throw damaged("tensor of rank " + items.size() + ", expected at most " + MAX_RANK);
        }
        return items.stream().mapToLong(this::number).toArray();
    }

    private List<?> tuple(Object value) {
        if (value instanceof List<?> list) {
            return list;
        }
        throw damaged("expected a tuple");
    }

    private String string(Object value) {
        if (value instanceof String string) {
            return string;
        }
        throw damaged("expected a string");
    }

    private HllmException damaged(String what) {
        return new HllmException(origin + ": at byte " + in.position() + " of the pickle: " + what);
    }
}
