package org.hllm4j.http;

import java.io.IOException;
import java.util.Arrays;
import java.util.stream.IntStream;

/**
 * A method, a path, and what answers there.
 *
 * @param path in which {id} stands for one segment of any content
 */
record Route(String method, String path, Handler handler) {
    /** Answers a request, on its own thread. */
    @FunctionalInterface
    interface Handler {
        Reply answer(Request request) throws IOException;
    }

    private static final String ID = "{id}";

    /** Works on users and items: needs a place among the requests. The others answer at once, also when all is busy. */
    boolean works() {
        return path.startsWith("/v1/");
    }

    /** Tells or changes nothing of anybody, and so needs no token. */
    boolean open() {
        return !works() && !path.equals("/metrics");
    }

    boolean matches(String rawPath) {
        String[] want = path.split("/", -1);
        String[] have = rawPath.split("/", -1);
        return want.length == have.length
                && IntStream.range(0, want.length)
                        .allMatch(i -> want[i].equals(ID) ? !have[i].isEmpty() : want[i].equals(have[i]));
    }

    /** What stands for {id} in a path that matches; null on a route without. */
    String id(String rawPath) {
        int place = Arrays.asList(path.split("/", -1)).indexOf(ID);
        return place < 0 ? null : Request.segment(rawPath.split("/", -1)[place]);
    }

    @Override
    public String toString() {
        return method + " " + path;
    }
}
