package org.hllm4j.data;

/**
 * Mean of some values per item, drawn towards the mean of all: an item seen once is hardly better known than one that was
 * never seen.
 */
public final class ItemMeans {
    /** Values of the mean of all that are added to each item's own. */
    private static final double PRIOR = 5;

    private final double[] sums;
    private final int[] counts;
    private double sum;
    private int count;

    /** @param items size of the catalogue */
    ItemMeans(int items) {
        sums = new double[items];
        counts = new int[items];
    }

    void add(int item, double value) {
        sums[item] += value;
        counts[item]++;
        sum += value;
        count++;
    }

    int items() {
        return counts.length;
    }

    /** Number of values. */
    int count() {
        return count;
    }

    /** Of all values. */
    public double all() {
        return sum / count;
    }

    public double of(int item) {
        return (sums[item] + PRIOR * all()) / (counts[item] + PRIOR);
    }

    /** The item's mean if one of its values had not been added. */
    double without(int item, double value) {
        return (sums[item] - value + PRIOR * all()) / (counts[item] - 1 + PRIOR);
    }
}
