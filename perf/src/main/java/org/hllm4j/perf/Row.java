package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.List;
import java.util.stream.IntStream;

/**
 * One line of the report.
 *
 * @param time null where the row failed, or measures something else
 * @param arithmetic what was computed or moved, over time; null where that is no figure of merit
 * @param useful what the caller got for it: items/s, tokens/s of the input, whatever was saved
 * @param memoryGb peak of resident memory, 10^9 bytes, as the note says; null where it was not measured
 * @param peerMemoryGb the peer's
 * @param peer null without one
 * @param profile of the last timed run; null where none was made
 */
record Row(
        String group,
        String name,
        String size,
        Timing time,
        Rate arithmetic,
        List<Rate> useful,
        Double memoryGb,
        Double peerMemoryGb,
        Comparison peer,
        Profile profile,
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
            List<Double> ratios = IntStream.range(0, ours.size())
                    .mapToObj(i -> theirs.get(i) / ours.get(i))
                    .toList();
            return new Comparison(peer, Timing.median(theirs), Timing.median(ratios), ours.size(), agrees, check);
        }
    }

    static Row of(String group, String name, String size, Timing time) {
        return new Row(group, name, size, time, null, List.of(), null, null, null, null, "", false);
    }

    static Row failed(String group, String name, String why) {
        return new Row(group, name, "", null, null, List.of(), null, null, null, null, "FAILED: " + why, true);
    }

    Row arithmetic(Rate it) {
        return new Row(group, name, size, time, it, useful, memoryGb, peerMemoryGb, peer, profile, note, failed);
    }

    /** So much computed or moved in a run, in billions of the unit a second. */
    Row arithmetic(double amount, String unit, double bestPerSecond, String roofline) {
        return arithmetic(Rate.of(amount / time.median() / 1e9, unit, bestPerSecond / 1e9, roofline));
    }

    Row useful(Rate it) {
        List<Rate> all = new ArrayList<>(useful);
        all.add(it);
        return new Row(group, name, size, time, arithmetic, all, memoryGb, peerMemoryGb, peer, profile, note, failed);
    }

    /** So many in a run. */
    Row useful(double count, String unit) {
        return useful(Rate.of(count / time.median(), unit + "/s"));
    }

    Row memory(Double ours, Double theirs) {
        return new Row(group, name, size, time, arithmetic, useful, ours, theirs, peer, profile, note, failed);
    }

    Row peer(Comparison it) {
        return new Row(group, name, size, time, arithmetic, useful, memoryGb, peerMemoryGb, it, profile, note, failed);
    }

    Row profile(Profile it) {
        return new Row(group, name, size, time, arithmetic, useful, memoryGb, peerMemoryGb, peer, it, note, failed);
    }

    Row note(String it) {
        return new Row(group, name, size, time, arithmetic, useful, memoryGb, peerMemoryGb, peer, profile, it, failed);
    }

    /** What identifies it, in history and for goals. */
    String key() {
        return group + " " + name + ", " + size;
    }

    /** Neither failed nor in known disagreement with the peer. */
    boolean ok() {
        return !failed && (peer == null || !Boolean.FALSE.equals(peer.agrees));
    }
}
