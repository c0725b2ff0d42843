package org.hllm4j.data;

import java.util.Arrays;
import java.util.stream.IntStream;

/**
 * What the training events say of an item whoever the user is, as a part of the logit: {@code slope * (bias of the item)}.
 * Biases are those of rating models (Koren, Bell, Volinsky 2009): a value in the rule's column is the mean of all, plus the
 * user's bias, plus the item's, and a rest; both are means of what the other leaves, drawn towards zero. So an item is not
 * taken for good because generous users rated it. The slope is that of a logistic regression of the labels. Items
 * without a training event add nothing. It leaves the network to learn what is between a user and an item.
 *
 * <p>An event that trains must not find its own label in its item's bias, as those that are predicted later will not:
 * {@link #without} leaves it out, and so does the regression.
 */
public final class ItemPrior {
    private static final double SHRINKAGE = 5; // of user biases: events without one that are added to each user's own
    private static final int ROUNDS = 15; // of users and items in turn; biases hardly move after the fifth
    private static final int STEPS = 50; // of Newton's method, which takes about five

    private final double[] users; // their biases
    private final ItemMeans means; // of the values without the users' biases
    private final double slope;

    private ItemPrior(double[] users, ItemMeans means, double slope) {
        this.users = users;
        this.means = means;
        this.slope = slope;
    }

    /** Of the labelled events that train. */
    static ItemPrior of(LabelledSequences data) {
        double rate = data.rate();
        double[] users = new double[data.interactions().users()];
        ItemMeans means = data.meanValues();
        for (int round = 0; round < ROUNDS; round++) {
            users = userBiases(data, means);
            means = itemMeans(data, users);
        }
        ItemPrior unscaled = new ItemPrior(users, means, 1);
        double[] x = new double[means.count()];
        float[] y = new float[means.count()];
        int[] n = {0};
        double[] direction = {0};
        data.forEachTraining((user, item, value, label) -> {
            x[n[0]] = unscaled.without(user, item, value);
            y[n[0]++] = label;
            direction[0] += unscaled.of(item) * (label - rate);
        });
        double slope = slope(x, y, rate);
        // Where items do not differ, all that a bias tells is the value that is missing from it, the wrong way round.
        return new ItemPrior(users, means, slope * direction[0] > 0 ? slope : 0);
    }

    private static double[] userBiases(LabelledSequences data, ItemMeans means) {
        double[] sums = new double[data.interactions().users()];
        int[] counts = new int[sums.length];
        data.forEachTraining((user, item, value, label) -> {
            sums[user] += value - means.of(item);
            counts[user]++;
        });
        Arrays.setAll(sums, user -> sums[user] / (counts[user] + SHRINKAGE));
        return sums;
    }

    private static ItemMeans itemMeans(LabelledSequences data, double[] users) {
        ItemMeans means = new ItemMeans(data.interactions().catalogue().size());
        data.forEachTraining((user, item, value, label) -> means.add(item, value - users[user]));
        return means;
    }

    /**
     * Of the logistic regression of y on x whose intercept is the log-odds of the rate. A prior, the standard normal
     * distribution for x of unit variance, keeps it finite where x tells all ones from zeros.
     */
    private static double slope(double[] x, float[] y, double rate) {
        double deviation = Math.sqrt(IntStream.range(0, x.length)
                .mapToDouble(i -> x[i] * x[i])
                .average()
                .orElse(0));
        if (deviation == 0) {
            return 0;
        }
        double intercept = Math.log(rate / (1 - rate));
        double slope = 0; // of x / deviation
        for (int step = 0; step < STEPS; step++) {
            double gradient = -slope;
            double curvature = 1;
            for (int i = 0; i < x.length; i++) {
                double z = x[i] / deviation;
                double p = 1 / (1 + Math.exp(-intercept - slope * z));
                gradient += (y[i] - p) * z;
                curvature += p * (1 - p) * z * z;
            }
            double change = Math.clamp(gradient / curvature, -1, 1);
            slope += change;
            if (Math.abs(change) < 1e-9) {
                break;
            }
        }
        return slope / deviation;
    }

    /** What the item adds to the logit of an event that does not train. */
    public double of(int item) {
        return slope * (means.of(item) - means.all());
    }

    /** What it adds to the logit of a user's training event with that value. */
    double without(int user, int item, double value) {
        return slope * (means.without(item, value - users[user]) - means.all());
    }

    /** What each item of the catalogue adds, in row order: what is saved and served. */
    public float[] values() {
        float[] values = new float[means.items()];
        for (int item = 0; item < values.length; item++) {
            values[item] = (float) of(item);
        }
        return values;
    }
}
