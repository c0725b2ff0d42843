package org.hllm4j.cli;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.hllm4j.run.Start;

/**
 * One model of a comparison. What has no meaning for a kind is null.
 *
 * @param fraction share of the users that it is trained on
 * @param itemLayers of the Item LLM; 0: all
 * @param userLayers of the User LLM; 0: all
 */
record Entrant(
        ModelKind kind,
        Double fraction,
        Integer itemLayers,
        Integer userLayers,
        Start.Init itemInit,
        Start.Init userInit) {

    /** The values that a comparison goes through. */
    record Axes(
            List<ModelKind> kinds,
            List<Double> fractions,
            List<Integer> itemLayers,
            List<Integer> userLayers,
            List<Start.Init> itemInits,
            List<Start.Init> userInits) {

        /** Every combination that means something, each once. */
        List<Entrant> entrants() {
            Set<Entrant> entrants = new LinkedHashSet<>();
            for (ModelKind kind : kinds) {
                for (Double fraction : fractions) {
                    for (Integer itemLayer : itemLayers) {
                        for (Integer userLayer : userLayers) {
                            for (Start.Init itemInit : itemInits) {
                                for (Start.Init userInit : userInits) {
                                    entrants.add(of(kind, fraction, itemLayer, userLayer, itemInit, userInit));
                                }
                            }
                        }
                    }
                }
            }
            return new ArrayList<>(entrants);
        }

        private static Entrant of(
                ModelKind kind, Double fraction, int itemLayers, int userLayers, Start.Init item, Start.Init user) {
            return switch (kind) {
                case HLLM -> new Entrant(kind, fraction, itemLayers, userLayers, item, user);
                case SASREC -> new Entrant(kind, fraction, null, null, null, null);
                case LLM_ID -> new Entrant(kind, fraction, null, userLayers, null, null);
                case POPULARITY -> new Entrant(kind, null, null, null, null, null);
            };
        }
    }

    /** Values of the axes that this kind has, by name. */
    Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        put(settings, "train fraction", fraction);
        put(settings, "item layers", itemLayers);
        put(settings, "user layers", userLayers);
        put(settings, "item init", itemInit);
        put(settings, "user init", userInit);
        return settings;
    }

    private static void put(Map<String, String> settings, String name, Object value) {
        if (value != null) {
            String text = value.toString().toLowerCase(Locale.ROOT);
            settings.put(name, text.endsWith(".0") ? text.substring(0, text.length() - 2) : text);
        }
    }

    /** Name of its run folder. */
    String folder() {
        StringBuilder name = new StringBuilder(kind.toString());
        settings()
                .forEach((axis, value) -> name.append('-')
                        .append(axis.replace(" ", ""))
                        .append('-')
                        .append(value));
        return name.toString();
    }

    /** For tables: the kind, and the settings by which entrants of its kind differ. */
    String label(List<Entrant> all) {
        StringBuilder label = new StringBuilder(kind.title());
        settings().forEach((axis, value) -> {
            boolean differs = all.stream()
                    .anyMatch(e -> e.kind == kind && !value.equals(e.settings().get(axis)));
            if (differs) {
                label.append(", ").append(axis).append(' ').append(value);
            }
        });
        return label.toString();
    }
}
