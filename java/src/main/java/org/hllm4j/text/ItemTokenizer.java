package org.hllm4j.text;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/**
 * A Hugging Face tokenizer ({@code tokenizer.json}), special tokens as it adds them. Works offline. Threads may share
 * it; {@link #close} frees native memory and may be called twice.
 */
public final class ItemTokenizer implements AutoCloseable {
    /** Texts per native call: enough to be cheap, few enough that their encodings (10 arrays each) stay small. */
    private static final int CHUNK = 64;

    static {
        // The library reports its use over the network, and on a machine with a GPU downloads another build of itself.
        for (String[] setting :
                new String[][] {{"ai.djl.offline", "true"}, {"OPT_OUT_TRACKING", "true"}, {"RUST_FLAVOR", "cpu"}}) {
            if (System.getProperty(setting[0]) == null) {
                System.setProperty(setting[0], setting[1]);
            }
        }
    }

    private final HuggingFaceTokenizer tokenizer;
    private final String origin;

    private ItemTokenizer(HuggingFaceTokenizer tokenizer, String origin) {
        this.tokenizer = tokenizer;
        this.origin = origin;
    }

    /**
     * @param tokenizerJson the content of {@code tokenizer.json}; its own truncation and padding are switched off
     * @param origin where it comes from, for messages
     * @throws HllmException when the content is no tokenizer, or the native library cannot be loaded
     */
    public static ItemTokenizer fromJson(String tokenizerJson, String origin) {
        // Without "truncation" the library cuts to 512 tokens.
        Map<String, String> options = Map.of("truncation", "false", "padding", "false", "addSpecialTokens", "true");
        try {
            return new ItemTokenizer(
                    HuggingFaceTokenizer.newInstance(
                            new ByteArrayInputStream(tokenizerJson.getBytes(StandardCharsets.UTF_8)), options),
                    origin);
        } catch (IOException | RuntimeException | LinkageError e) {
            throw new HllmException(
                    origin + ": cannot be loaded as a tokenizer.json (of the Hugging Face tokenizers library): "
                            + e.getMessage(),
                    e);
        }
    }

    /**
     * Token ids of a text, uncut.
     *
     * @throws HllmException after {@link #close}, or when the tokenizer cannot encode the text
     */
    public int[] encode(String text) {
        return encode(new String[] {text}, Integer.MAX_VALUE)[0];
    }

    /**
     * Token ids of each text, cut to the first {@code maxLength}. Uses all cores.
     *
     * @param progress is told, one call at a time, how many texts are done; null for none
     * @throws HllmException after {@link #close}, or when the tokenizer cannot encode a text
     */
    public int[][] encodeAll(List<String> texts, int maxLength, LongConsumer progress) {
        if (maxLength < 1) {
            throw new HllmException("max text length is " + maxLength + ", expected at least 1 token");
        }
        int[][] ids = new int[texts.size()][];
        long[] done = {0};
        IntStream.range(0, Math.ceilDiv(ids.length, CHUNK)).parallel().forEach(chunk -> {
            int begin = chunk * CHUNK;
            int end = Math.min(ids.length, begin + CHUNK);
            int[][] encoded = encode(texts.subList(begin, end).toArray(String[]::new), maxLength);
            System.arraycopy(encoded, 0, ids, begin, encoded.length);
            if (progress != null) {
                synchronized (done) {
                    progress.accept(done[0] += encoded.length);
                }
            }
        });
        return ids;
    }

    @Override
    public void close() {
        tokenizer.close();
    }

    private int[][] encode(String[] texts, int maxLength) {
        try {
            Encoding[] encodings = tokenizer.batchEncode(texts);
            int[][] ids = new int[texts.length][];
            Arrays.setAll(
                    ids,
                    i -> Arrays.stream(encodings[i].getIds())
                            .limit(maxLength)
                            .mapToInt(Math::toIntExact)
                            .toArray());
            return ids;
        } catch (RuntimeException e) {
            throw new HllmException(origin + ": the tokenizer failed: " + e.getMessage(), e);
        }
    }
}
