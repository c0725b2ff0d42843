package org.hllm4j.weights;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.hllm4j.HllmException;

/**
 * Rebuilds the {@code tokenizer.json} of a GGUF file: a GGUF holds vocabulary and merges (or scores), and names the
 * rest; the rest is written out here as llama.cpp and Hugging Face define it.
 */
public final class GgufTokenizer {
    private static final String GPT2_SPLIT =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    private static final String LLAMA3_SPLIT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
            + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    /** Kinds of token in tokenizer.ggml.token_type. */
    private static final int NORMAL = 1;

    private static final int UNKNOWN = 2;
    private static final int CONTROL = 3;
    private static final int USER_DEFINED = 4;

    /** A SentencePiece token has at most 16 or so characters; splitting one costs the square of its length. */
    private static final int MAX_TOKEN = 1024;

    private final Gguf gguf;
    private final List<String> tokens;
    private final long[] kinds;
    private final Map<String, Integer> vocabulary = new LinkedHashMap<>();

    private GgufTokenizer(Gguf gguf) {
        this.gguf = gguf;
        tokens = gguf.strings("tokenizer.ggml.tokens");
        for (String token : tokens) {
            if (vocabulary.put(token, vocabulary.size()) != null) {
                throw new HllmException(gguf.origin() + ": token '" + token + "' is in the vocabulary twice");
            }
        }
        kinds = gguf.has("tokenizer.ggml.token_type")
                ? gguf.integers("tokenizer.ggml.token_type")
                : Collections.nCopies(tokens.size(), (long) NORMAL).stream()
                        .mapToLong(kind -> kind)
                        .toArray();
        if (kinds.length != tokens.size()) {
            throw new HllmException(
                    gguf.origin() + ": " + kinds.length + " token types for " + tokens.size() + " tokens");
        }
    }

    /** The content of a {@code tokenizer.json}; HllmException for a tokenizer that is not known here. */
    public static String toJson(Gguf gguf) {
        String model = gguf.string("tokenizer.ggml.model");
        return switch (model) {
            case "gpt2" -> new GgufTokenizer(gguf).byteLevel();
            case "llama" -> new GgufTokenizer(gguf).sentencePiece();
            default ->
                throw new HllmException(gguf.origin() + ": tokenizer.ggml.model is \"" + model
                        + "\", only gpt2 and llama are supported; give a tokenizer.json");
        };
    }

    /** Byte-level BPE with the file's own merges. */
    private String byteLevel() {
        String pre = gguf.string("tokenizer.ggml.pre", "default");
        boolean llama3 = List.of("llama-bpe", "llama3", "llama-v3").contains(pre);
        Object splits = switch (pre) {
            case "smollm" -> sequence(Json.fields("type", "Digits", "individual_digits", true), byteLevelStep(true));
            case "gpt-2" -> byteLevelStep(true);
            case "llama-bpe", "llama3", "llama-v3" -> sequence(split(LLAMA3_SPLIT), byteLevelStep(false));
            case "default" ->
                sequence(
                        split("[\\p{P}\\$\\+<=>\\^~\\|]+"),
                        split(GPT2_SPLIT),
                        split("\\p{N}+"),
                        split("[0-9][0-9][0-9]"),
                        byteLevelStep(false));
            default ->
                throw new HllmException(gguf.origin() + ": tokenizer.ggml.pre is \"" + pre
                        + "\", only smollm, gpt-2, llama-bpe and default are supported; give a tokenizer.json");
        };
        List<List<String>> merges = new ArrayList<>();
        for (String merge : gguf.strings("tokenizer.ggml.merges")) {
            int space = merge.indexOf(' ', 1);
            if (space < 0) {
                throw new HllmException(gguf.origin() + ": merge '" + merge + "' is not two tokens");
            }
            List<String> pair = List.of(merge.substring(0, space), merge.substring(space + 1));
            String joined = pair.get(0) + pair.get(1);
            if (!vocabulary.containsKey(pair.get(0))
                    || !vocabulary.containsKey(pair.get(1))
                    || !vocabulary.containsKey(joined)) {
                throw new HllmException(
                        gguf.origin() + ": merge '" + merge + "' is of tokens that are not in " + "the vocabulary");
            }
            merges.add(pair);
        }
        return assemble(null, splits, byteLevelStep(true), bpe(null, false, llama3, merges), llama3);
    }

    /** SentencePiece BPE as Hugging Face's LlamaTokenizerFast spells it. */
    private String sentencePiece() {
        boolean prefix = gguf.flag("tokenizer.ggml.add_space_prefix", true);
        List<Object> normalizers = new ArrayList<>();
        List<Object> decoders = new ArrayList<>();
        if (prefix) {
            normalizers.add(Json.fields("type", "Prepend", "prepend", "▁"));
        }
        normalizers.add(Json.fields("type", "Replace", "pattern", Json.fields("String", " "), "content", "▁"));
        decoders.add(Json.fields("type", "Replace", "pattern", Json.fields("String", "▁"), "content", " "));
        decoders.add(Json.fields("type", "ByteFallback"));
        decoders.add(Json.fields("type", "Fuse"));
        if (prefix) {
            decoders.add(Json.fields("type", "Strip", "content", " ", "start", 1, "stop", 0));
        }
        return assemble(
                Json.fields("type", "Sequence", "normalizers", normalizers),
                null,
                Json.fields("type", "Sequence", "decoders", decoders),
                bpe(token("unknown", 0), true, false, mergesFromScores()),
                true);
    }

    /**
     * SentencePiece joins the neighbours whose joined token scores best; the same as a list of merges: every split of
     * every token, best token first. Ties: longer left part, then longer right part, then order of the vocabulary.
     */
    private List<List<String>> mergesFromScores() {
        float[] scores = gguf.reals("tokenizer.ggml.scores");
        if (scores.length != tokens.size()) {
            throw new HllmException(gguf.origin() + ": " + scores.length + " scores for " + tokens.size() + " tokens");
        }
        record Merge(String left, String right, float score) {}
        List<Merge> merges = new ArrayList<>();
        for (int id = 0; id < scores.length; id++) {
            String token = tokens.get(id);
            if (token.length() > MAX_TOKEN) {
                throw new HllmException(gguf.origin() + ": token " + id + " has " + token.length()
                        + " characters, expected at most " + MAX_TOKEN);
            }
            if (kinds[id] != NORMAL || token.isEmpty()) {
                continue;
            }
            List<Merge> splits = new ArrayList<>();
            for (int at = token.offsetByCodePoints(0, 1); at < token.length(); at = token.offsetByCodePoints(at, 1)) {
                Merge split = new Merge(token.substring(0, at), token.substring(at), scores[id]);
                if (vocabulary.containsKey(split.left) && vocabulary.containsKey(split.right)) {
                    splits.add(split);
                }
            }
            splits.sort(Comparator.<Merge>comparingInt(split -> vocabulary.get(split.left))
                    .thenComparingInt(split -> vocabulary.get(split.right)));
            merges.addAll(splits);
        }
        merges.sort(Comparator.comparingDouble(Merge::score)
                .thenComparingInt(merge -> merge.left.codePointCount(0, merge.left.length()))
                .thenComparingInt(merge -> merge.right.codePointCount(0, merge.right.length()))
                .reversed());
        return merges.stream().map(merge -> List.of(merge.left, merge.right)).toList();
    }

    private String assemble(
            Object normalizer, Object preTokenizer, Object decoder, Object model, boolean bosByDefault) {
        return Json.write(Json.fields(
                "version",
                "1.0",
                "truncation",
                null,
                "padding",
                null,
                "added_tokens",
                addedTokens(),
                "normalizer",
                normalizer,
                "pre_tokenizer",
                preTokenizer,
                "post_processor",
                template(bosByDefault),
                "decoder",
                decoder,
                "model",
                model));
    }

    private Map<String, Object> bpe(
            String unknown, boolean byteFallback, boolean ignoreMerges, List<List<String>> merges) {
        return Json.fields(
                "type", "BPE",
                "dropout", null,
                "unk_token", unknown,
                "continuing_subword_prefix", null,
                "end_of_word_suffix", null,
                "fuse_unk", byteFallback,
                "byte_fallback", byteFallback,
                "ignore_merges", ignoreMerges,
                "vocab", vocabulary,
                "merges", merges);
    }

    /** Tokens that are matched in the text before anything is split. */
    private List<Object> addedTokens() {
        Map<Integer, Boolean> special = new TreeMap<>();
        for (int id = 0; id < kinds.length; id++) {
            if (kinds[id] == CONTROL || kinds[id] == UNKNOWN || kinds[id] == USER_DEFINED) {
                special.put(id, kinds[id] != USER_DEFINED);
            }
        }
        for (String role : List.of("bos", "eos", "unknown", "padding")) {
            if (gguf.has(idKey(role))) {
                special.put(vocabulary.get(token(role, 0)), true);
            }
        }
        List<Object> added = new ArrayList<>();
        special.forEach((id, isSpecial) -> {
            if (tokens.get(id).isEmpty()) {
                return; // an empty token would match everywhere
            }
            added.add(Json.fields(
                    "id", id,
                    "content", tokens.get(id),
                    "single_word", false,
                    "lstrip", false,
                    "rstrip", false,
                    "normalized", false,
                    "special", isSpecial));
        });
        return added;
    }

    /** Adds BOS and EOS as the file's flags say; null when it adds neither. */
    private Object template(boolean bosByDefault) {
        boolean addBos = gguf.flag("tokenizer.ggml.add_bos_token", bosByDefault);
        boolean addEos = gguf.flag("tokenizer.ggml.add_eos_token", false);
        if (!addBos && !addEos) {
            return null;
        }
        Map<String, Object> special = new LinkedHashMap<>();
        List<Object> single = new ArrayList<>();
        List<Object> pair = new ArrayList<>();
        for (int sequence = 0; sequence < 2; sequence++) {
            List<Object> parts = new ArrayList<>();
            if (addBos) {
                parts.add(specialPart(token("bos", 1), sequence, special));
            }
            parts.add(Json.fields("Sequence", Json.fields("id", sequence == 0 ? "A" : "B", "type_id", sequence)));
            if (addEos) {
                parts.add(specialPart(token("eos", 2), sequence, special));
            }
            single.addAll(sequence == 0 ? parts : List.of());
            pair.addAll(parts);
        }
        return Json.fields("type", "TemplateProcessing", "single", single, "pair", pair, "special_tokens", special);
    }

    private Object specialPart(String token, int sequence, Map<String, Object> special) {
        special.put(token, Json.fields("id", token, "ids", List.of(vocabulary.get(token)), "tokens", List.of(token)));
        return Json.fields("SpecialToken", Json.fields("id", token, "type_id", sequence));
    }

    private String token(String role, int otherwise) {
        long id = gguf.integer(idKey(role), otherwise);
        if (id < 0 || id >= tokens.size()) {
            throw new HllmException(gguf.origin() + ": the " + role + " token is " + id + ", but there are "
                    + tokens.size() + " tokens");
        }
        return tokens.get((int) id);
    }

    private static String idKey(String role) {
        return "tokenizer.ggml." + role + "_token_id";
    }

    private static Map<String, Object> sequence(Object... steps) {
        return Json.fields("type", "Sequence", "pretokenizers", List.of(steps));
    }

    private static Map<String, Object> split(String regex) {
        return Json.fields(
                "type", "Split", "pattern", Json.fields("Regex", regex), "behavior", "Isolated", "invert", false);
    }

    private static Map<String, Object> byteLevelStep(boolean splits) {
        return Json.fields("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", splits);
    }
}
