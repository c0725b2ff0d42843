package org.hllm4j.cli;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.data.Catalogue;
import org.hllm4j.serve.Recommender;

/**
 * What is recommended to whom, for reading.
 *
 * @param user id, or null for a history that is nobody's
 * @param history item rows, oldest first
 */
record Listing(String user, int[] history, List<Recommender.Recommendation> recommended) {
    private static final int SHOWN = 10;

    static List<Listing> of(Recommender recommender, List<String> users, List<int[]> histories, int k) {
        List<List<Recommender.Recommendation>> recommended = recommender.recommend(histories, k);
        List<Listing> listings = new ArrayList<>();
        for (int i = 0; i < histories.size(); i++) {
            listings.add(new Listing(users.get(i), histories.get(i), recommended.get(i)));
        }
        return listings;
    }

    String text(Catalogue catalogue, List<String> textKeys) {
        StringBuilder text = new StringBuilder(user == null ? "History" : "User " + user + ", history");
        int first = Math.max(0, history.length - SHOWN);
        text.append(first == 0 ? "" : " (the last " + SHOWN + " of " + history.length + ")")
                .append('\n');
        for (int i = first; i < history.length; i++) {
            text.append("          ")
                    .append(title(catalogue, textKeys, history[i]))
                    .append('\n');
        }
        text.append("Recommended\n");
        for (Recommender.Recommendation r : recommended) {
            text.append(String.format(Locale.ROOT, "  %6.3f  %s%n", r.score(), title(catalogue, textKeys, r.item())));
        }
        return text.toString();
    }

    Map<String, Object> asMap(Catalogue catalogue, List<String> textKeys) {
        Map<String, Object> map = new LinkedHashMap<>();
        if (user != null) {
            map.put("user", user);
        }
        map.put(
                "history",
                Arrays.stream(history)
                        .mapToObj(item -> entry(catalogue, textKeys, item))
                        .toList());
        map.put(
                "recommended",
                recommended.stream()
                        .map(r -> {
                            Map<String, Object> entry = entry(catalogue, textKeys, r.item());
                            entry.put("score", r.score());
                            return entry;
                        })
                        .toList());
        return map;
    }

    private static Map<String, Object> entry(Catalogue catalogue, List<String> textKeys, int item) {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("item", catalogue.id(item));
        map.put("title", catalogue.field(item, titleKey(textKeys)));
        return map;
    }

    private static String title(Catalogue catalogue, List<String> textKeys, int item) {
        String title = catalogue.field(item, titleKey(textKeys));
        return title.isEmpty() ? catalogue.id(item) : title + "  [" + catalogue.id(item) + "]";
    }

    private static String titleKey(List<String> textKeys) {
        return textKeys.contains("title") ? "title" : textKeys.getFirst();
    }
}
