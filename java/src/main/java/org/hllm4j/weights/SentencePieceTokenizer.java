package org.hllm4j.weights;

import java.nio.BufferUnderflowException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * Turns a SentencePiece model ({@code tokenizer.model} of Llama, Mistral, Baichuan) into a {@code tokenizer.json}. It is a
 * protobuf message: pieces with scores, how it was trained, how text is normalised. Only models that merge pairs (BPE) and
 * leave the text as it is are known here, which those are.
 */
final class SentencePieceTokenizer {
    private static final int BPE = 2;

    private final String origin;
    private final List<String> tokens = new ArrayList<>();
    private final List<Float> scores = new ArrayList<>();
    private final List<Long> kinds = new ArrayList<>();
    private final Map<String, Long> roles = new LinkedHashMap<>();
    private long modelType = 1; // the defaults of sentencepiece_model.proto
    private boolean byteFallback;
    private boolean changesText;
    private boolean dropsSpaces = true;
    private boolean prefix = true;

    private SentencePieceTokenizer(String origin) {
        this.origin = origin;
        roles.put("unknown", 0L);
        roles.put("bos", 1L);
        roles.put("eos", 2L);
    }

    /**
     * @param model the file's content
     * @param addBos whether the family's texts begin with BOS
     * @param addEos whether they end with EOS
     * @throws HllmException for a damaged file, or a model of another kind
     */
    static String toJson(byte[] model, String origin, boolean addBos, boolean addEos) {
        SentencePieceTokenizer read = new SentencePieceTokenizer(origin);
        try {
            read.message(ByteBuffer.wrap(model).order(ByteOrder.LITTLE_ENDIAN), read::field);
        } catch (BufferUnderflowException | IllegalArgumentException e) {
            throw new HllmException(origin + ": not a SentencePiece model, or damaged", e);
        }
        return read.json(addBos, addEos);
    }

    private String json(boolean addBos, boolean addEos) {
        String wrong = tokens.isEmpty()
                ? "holds no pieces"
                : modelType != BPE
                        ? "is of type " + modelType + ", only 2 (BPE) is supported"
                        : changesText
                                ? "has a table of characters to be replaced, which is not supported"
                                : dropsSpaces
                                        ? "drops repeated spaces, which is not supported"
                                        : byteFallback
                                                ? null
                                                : "knows no bytes for unknown characters, which is not supported";
        if (wrong != null) {
            throw new HllmException(origin + ": the SentencePiece model " + wrong + "; give a tokenizer.json");
        }
        roles.values().removeIf(id -> id < 0); // -1: there is none
        float[] values = new float[scores.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = scores.get(i);
        }
        long[] types = kinds.stream().mapToLong(Long::longValue).toArray();
        return new TokenizerJson(origin, tokens, types, roles, addBos, addEos).sentencePiece(values, prefix);
    }

    /** What is done with a field of a message: its number, and its value or its content. */
    private interface Field {
        void accept(int number, long value, ByteBuffer content);
    }

    private void field(int number, long value, ByteBuffer content) {
        switch (number) {
            case 1 -> {
                tokens.add("");
                scores.add(0f);
                kinds.add((long) TokenizerJson.NORMAL);
                message(content, this::piece);
            }
            case 2 -> message(content, this::trainer);
            case 3 -> message(content, this::normalizer);
            default -> {} // tests of its own, and a normaliser for decoding
        }
    }

    private void piece(int number, long value, ByteBuffer content) {
        int last = tokens.size() - 1;
        switch (number) {
            case 1 -> tokens.set(last, StandardCharsets.UTF_8.decode(content).toString());
            case 2 -> scores.set(last, Float.intBitsToFloat((int) value));
            case 3 -> kinds.set(last, value);
            default -> {}
        }
    }

    private void trainer(int number, long value, ByteBuffer content) {
        switch (number) {
            case 3 -> modelType = value;
            case 35 -> byteFallback = value != 0;
            case 40 -> roles.put("unknown", (long) (int) value);
            case 41 -> roles.put("bos", (long) (int) value);
            case 42 -> roles.put("eos", (long) (int) value);
            default -> {} // how it was trained
        }
    }

    private void normalizer(int number, long value, ByteBuffer content) {
        switch (number) {
            case 2 -> changesText = content.hasRemaining();
            case 3 -> prefix = value != 0;
            case 4 -> dropsSpaces = value != 0;
            default -> {}
        }
    }

    /** Calls {@code into} for each field: with a number's bits, or with a slice of what is longer. */
    private void message(ByteBuffer in, Field into) {
        while (in.hasRemaining()) {
            long key = varint(in);
            long value = 0;
            ByteBuffer content = ByteBuffer.allocate(0);
            switch ((int) (key & 7)) {
                case 0 -> value = varint(in);
                case 1 -> value = in.getLong();
                case 2 -> {
                    long length = varint(in);
                    if (length < 0 || length > in.remaining()) {
                        throw new IllegalArgumentException("a field passes the end");
                    }
                    content = in.slice(in.position(), (int) length).order(ByteOrder.LITTLE_ENDIAN);
                    in.position(in.position() + (int) length);
                }
                case 5 -> value = in.getInt();
                default -> throw new IllegalArgumentException("unknown wire type");
            }
            into.accept((int) (key >>> 3), value, content);
        }
    }

    private static long varint(ByteBuffer in) {
        long value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            byte next = in.get();
            value |= (long) (next & 0x7f) << shift;
            if (next >= 0) {
                return value;
            }
        }
        throw new IllegalArgumentException("a number is too long");
    }
}
