package org.hllm4j.data;

import java.util.Arrays;
import org.hllm4j.HllmException;

/**
 * A log cut at two moments, for all users alike: what happened earlier trains, what happened later is predicted from all
 * that came before it.
 *
 * @param validationFrom timestamp of the first validation events
 * @param testFrom timestamp of the first test events
 */
public record TimeSplit(long validationFrom, long testFrom) {
    public TimeSplit {
        if (validationFrom > testFrom) {
            throw new HllmException(
                    "the validation begins at " + validationFrom + ", after the test, which begins at " + testFrom);
        }
    }

    /** Holds out the last {@code share} of the events: the first half of them validates, the second tests. */
    public static TimeSplit last(Interactions interactions, double share) {
        long[] times = sorted(interactions);
        if (!(share > 0 && share < 1)) {
            throw new HllmException(
                    "the share that is held out is " + share + ", expected more than 0 and less than 1");
        }
        int held = (int) Math.ceil(share * times.length);
        return of(times, times[times.length - held]);
    }

    /** Holds out the events from a timestamp on: the first half of them validates, the second tests. */
    public static TimeSplit at(Interactions interactions, long timestamp) {
        return of(sorted(interactions), timestamp);
    }

    private static TimeSplit of(long[] times, long from) {
        int first = 0;
        while (first < times.length && times[first] < from) {
            first++;
        }
        if (first == 0 || times.length - first < 2) {
            throw new HllmException("a split at timestamp " + from + " leaves " + first + " events to train on and "
                    + (times.length - first) + " to hold out; the log runs from " + times[0] + " to "
                    + times[times.length - 1]);
        }
        return new TimeSplit(from, times[(first + times.length) / 2]);
    }

    private static long[] sorted(Interactions interactions) {
        long[] times = new long[interactions.size()];
        int n = 0;
        for (int user = 0; user < interactions.users(); user++) {
            for (long time : interactions.timestamps(user)) {
                times[n++] = time;
            }
        }
        Arrays.sort(times);
        return times;
    }

    /** Whether an event of that time trains. */
    public boolean trains(long time) {
        return time < validationFrom;
    }

    boolean holds(Split split, long time) {
        return split == Split.TEST ? time >= testFrom : time >= validationFrom && time < testFrom;
    }
}
