package org.hllm4j.text;

/** The tokenizer of a model that has none: byte-level without merges, the ids of a text are its UTF-8 bytes. */
public final class ByteTokenizer {
    /** Ids that it gives. */
    public static final int VOCABULARY = 256;

    private ByteTokenizer() {}

    /** Content of a {@code tokenizer.json}. */
    public static String json() {
        StringBuilder vocabulary = new StringBuilder();
        int next = VOCABULARY;
        for (int b = 0; b < VOCABULARY; b++) {
            // GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100.
            boolean printable = b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae;
            vocabulary.append(b == 0 ? "" : ",").append("\"\\u%04x\":%d".formatted(printable ? b : next++, b));
        }
        return """
            {"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
             "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
             "post_processor":null,"decoder":null,
             "model":{"type":"BPE","dropout":null,"unk_token":null,"fuse_unk":false,"vocab":{%s},"merges":[]}}\
            """.formatted(vocabulary);
    }
}
