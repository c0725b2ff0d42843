package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * One line of the report.
 *
 * @param time null where the row failed, or measures something else
 * @param arithmetic what was computed or moved, over time; null where that is no figure of merit
 * @param useful what the caller got for it: items/s, tokens/s of the input, whatever was saved
 * @param memoryGb peak of resident memory, 10^9 bytes, as the note says; null where it was not measured
 * @param peer null without one
 */
record Row(
        String group,
        String name,
        String size,
        Timing time,
        Rate arithmetic,
        List<Rate> useful,
        Double memoryGb,
        Comparison peer,
        String note,
        boolean failed) {

    /**
     * @param fraction of the roofline; null without one
     * @param roofline which one
     */
    record Rate(double value, String unit, Double fraction, String roofline) {
        static Rate of(double value, String unit) {
            return new Rate(value, unit, null, null);
        }

        static Rate of(double value, String unit, double best, String roofline) {
            return new Rate(value, unit, value / best, roofline);
        }
    }

    /**
     * Runs of ours and of the peer, taken in turn.
     *
     * @param ratio how many times faster ours is: the median over the pairs of peer's time / our time
     * @param agrees whether both computed the same; null where the peer does not show what it computed
     * @param check how that was found out
     */
    record Comparison(String peer, double seconds, double ratio, int pairs, Boolean agrees, String check) {
        String outputs() {
            return agrees == null ? "not compared" : agrees ? "equal" : "MISMATCH";
        }

        static Comparison of(String peer, List<Double> ours, List<Double> theirs, Boolean agrees, String check) {
            if (ours.size() != theirs.size()) {
                throw new IllegalArgumentException(ours.size() + " runs cannot be paired with " + theirs.size());
            }
            List<Double> ratios = new ArrayList<>();
            for (int i = 0; i < ours.size(); i++) {
                ratios.add(theirs.get(i) / ours.get(i));
            }
            return new Comparison(peer, Timing.median(theirs), Timing.median(ratios), ours.size(), agrees, check);
        }
    }

    static Row of(String group, String name, String size, Timing time) {
        return new Row(group, name, size, time, null, List.of(), null, null, "", false);
    }

    static Row failed(String group, String name, String why) {
        return new Row(group, name, "", null, null, List.of(), null, null, "FAILED: " + why, true);
    }

    Row arithmetic(Rate rate) {
        return new Row(group, name, size, time, rate, useful, memoryGb, peer, note, failed);
    }

    Row useful(Rate... rates) {
        return new Row(group, name, size, time, arithmetic, List.of(rates), memoryGb, peer, note, failed);
    }

    Row memory(Double gb) {
        return new Row(group, name, size, time, arithmetic, useful, gb, peer, note, failed);
    }

    Row peer(Comparison comparison) {
        return new Row(group, name, size, time, arithmetic, useful, memoryGb, comparison, note, failed);
    }

    Row note(String text) {
        return new Row(group, name, size, time, arithmetic, useful, memoryGb, peer, text, failed);
    }

    /** Neither failed nor in known disagreement with the peer. */
    boolean ok() {
        return !failed && (peer == null || !Boolean.FALSE.equals(peer.agrees));
    }

    Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("group", group);
        map.put("name", name);
        map.put("size", size);
        map.put("ok", ok());
        if (time != null) {
            map.put("seconds", time.median());
            map.put("min", time.min());
            map.put("max", time.max());
            map.put("runs", time.seconds().size());
        }
        if (arithmetic != null) {
            map.put("rate", arithmetic.value);
            map.put("unit", arithmetic.unit);
            if (arithmetic.fraction != null) {
                map.put("fraction", arithmetic.fraction);
                map.put("roofline", arithmetic.roofline);
            }
        }
        useful.forEach(rate -> map.put(rate.unit, rate.value));
        if (memoryGb != null) {
            map.put("memory_gb", memoryGb);
        }
        if (peer != null) {
            map.put("peer", peer.peer);
            map.put("peer_seconds", peer.seconds);
            map.put("ratio", peer.ratio);
            map.put("pairs", peer.pairs);
            map.put("outputs", peer.outputs());
            map.put("check", peer.check);
        }
        if (!note.isEmpty()) {
            map.put("note", note);
        }
        return map;
    }
}
