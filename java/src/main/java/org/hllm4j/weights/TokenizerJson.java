package org.hllm4j.weights;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.hllm4j.HllmException;

/**
 * Writes the {@code tokenizer.json} of a vocabulary that came in another form; what it leaves open is written out as Hugging
 * Face defines it.
 */
final class TokenizerJson {
    /** Kinds of token, numbered alike by SentencePiece and GGUF. */
    static final int NORMAL = 1;

    private static final int UNKNOWN = 2;
    private static final int CONTROL = 3;
    private static final int USER_DEFINED = 4;

    /** A SentencePiece token has at most 16 or so characters; splitting one costs the square of its length. */
    private static final int MAX_TOKEN = 1024;

    private final String origin;
    private final List<String> tokens;
    private final long[] kinds;
    private final Map<String, Long> roles;
    private final boolean addBos;
    private final boolean addEos;
    private final Map<String, Integer> vocabulary = new LinkedHashMap<>();

    /**
     * @param origin the file, for messages
     * @param tokens by id
     * @param kinds of each token
     * @param roles ids of "bos", "eos", "unknown" and "padding", as far as the file names them
     * @param addBos whether a text begins with BOS
     * @param addEos whether it ends with EOS
     */
    TokenizerJson(
            String origin, List<String> tokens, long[] kinds, Map<String, Long> roles, boolean addBos, boolean addEos) {
        this.origin = origin;
        this.tokens = tokens;
        this.kinds = kinds;
        this.roles = roles;
        this.addBos = addBos;
        this.addEos = addEos;
        for (String token : tokens) {
            if (vocabulary.put(token, vocabulary.size()) != null) {
                throw new HllmException(origin + ": token '" + token + "' is in the vocabulary twice");
            }
        }
        if (kinds.length != tokens.size()) {
            throw new HllmException(origin + ": " + kinds.length + " token types for " + tokens.size() + " tokens");
        }
    }

    /**
     * Byte-level BPE.
     *
     * @param normalizer or null
     * @param splits how a text is cut before anything is merged
     * @param lines pairs of tokens with a space between them, best first
     * @param wholeWords whether a word that is a token is not put together by merges
     */
    String byteLevel(Object normalizer, Object splits, List<String> lines, boolean wholeWords) {
        List<List<String>> merges = new ArrayList<>();
        for (String merge : lines) {
            int space = merge.indexOf(' ', 1);
            if (space < 0) {
                throw new HllmException(origin + ": merge '" + merge + "' is not two tokens");
            }
            List<String> pair = List.of(merge.substring(0, space), merge.substring(space + 1));
            String joined = pair.get(0) + pair.get(1);
            if (!vocabulary.containsKey(pair.get(0))
                    || !vocabulary.containsKey(pair.get(1))
                    || !vocabulary.containsKey(joined)) {
                throw new HllmException(
                        origin + ": merge '" + merge + "' is of tokens that are not in " + "the vocabulary");
            }
            merges.add(pair);
        }
        return assemble(normalizer, splits, byteLevelStep(true), bpe(null, false, wholeWords, merges));
    }

    /**
     * SentencePiece BPE as Hugging Face's LlamaTokenizerFast spells it.
     *
     * @param scores of each token
     * @param prefix whether a text gets a space in front
     */
    String sentencePiece(float[] scores, boolean prefix) {
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
                bpe(token("unknown", 0), true, false, mergesFromScores(scores)));
    }

    /**
     * SentencePiece joins the neighbours whose joined token scores best; the same as a list of merges: every split of
     * every token, best token first. Ties: longer left part, then longer right part, then order of the vocabulary.
     */
    private List<List<String>> mergesFromScores(float[] scores) {
        if (scores.length != tokens.size()) {
            throw new HllmException(origin + ": " + scores.length + " scores for " + tokens.size() + " tokens");
        }
        record Merge(String left, String right, float score) {}
        List<Merge> merges = new ArrayList<>();
        for (int id = 0; id < scores.length; id++) {
            String token = tokens.get(id);
            if (token.length() > MAX_TOKEN) {
                throw new HllmException(origin + ": token " + id + " has " + token.length()
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

    private String assemble(Object normalizer, Object preTokenizer, Object decoder, Object model) {
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
                template(),
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
        for (String role : roles.keySet()) {
            special.put(vocabulary.get(token(role, 0)), true);
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

    /** Adds BOS and EOS; null when neither is added. */
    private Object template() {
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

    private String token(String role, long otherwise) {
        long id = roles.getOrDefault(role, otherwise);
        if (id < 0 || id >= tokens.size()) {
            throw new HllmException(
                    origin + ": the " + role + " token is " + id + ", but there are " + tokens.size() + " tokens");
        }
        return tokens.get((int) id);
    }

    static Map<String, Object> sequence(Object... steps) {
        return Json.fields("type", "Sequence", "pretokenizers", List.of(steps));
    }

    static Map<String, Object> split(String regex) {
        return Json.fields(
                "type", "Split", "pattern", Json.fields("Regex", regex), "behavior", "Isolated", "invert", false);
    }

    static Map<String, Object> byteLevelStep(boolean splits) {
        return Json.fields("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", splits);
    }
}
