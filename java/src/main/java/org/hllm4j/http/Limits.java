package org.hllm4j.http;

import java.time.Duration;
import org.hllm4j.HllmException;

/**
 * How much one request, and all of them together, may take.
 *
 * @param body bytes
 * @param list entries of a list: events, candidates, a history
 * @param k recommendations
 * @param requests that are worked on at a time, their bodies in memory; those beyond are told to come again
 * @param time until a request is given up, its sending included
 */
public record Limits(int body, int list, int k, int requests, Duration time) {
    public static final Limits DEFAULTS = new Limits(256 << 10, 10_000, 1000, 2048, Duration.ofSeconds(30));

    public Limits {
        if (body < 1 || list < 1 || k < 1 || requests < 1 || time.toMillis() < 1) {
            throw new HllmException("limits of the server: body " + body + ", list " + list + ", k " + k + ", requests "
                    + requests + " and time " + time + " must all be at least 1");
        }
    }

    /** As many more requests as an engine's queue holds. */
    public Limits withRequests(int count) {
        return new Limits(body, list, k, count, time);
    }

    public Limits withTime(Duration limit) {
        return new Limits(body, list, k, requests, limit);
    }
}
