package org.hllm4j.perf;

import java.util.SplittableRandom;

/** P(x) ~ x^-a for x = 1, 2, ...: popular items, drawn as NumPy does (Devroye's rejection method). */
final class Zipf {
    private final double a;
    private final double b;
    private final SplittableRandom random;

    Zipf(double a, long seed) {
        this.a = a;
        b = Math.pow(2, a - 1);
        random = new SplittableRandom(seed);
    }

    long next() {
        while (true) {
            double x = Math.floor(Math.pow(1 - random.nextDouble(), -1 / (a - 1)));
            double t = Math.pow(1 + 1 / x, a - 1);
            if (x < Long.MAX_VALUE && random.nextDouble() * x * (t - 1) / (b - 1) <= t / b) {
                return (long) x;
            }
        }
    }

    int below(int bound) {
        return (int) (next() % bound);
    }
}
