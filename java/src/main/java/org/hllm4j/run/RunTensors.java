package org.hllm4j.run;

import java.nio.FloatBuffer;
import java.util.HashSet;
import java.util.Set;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;

/** A run's three weight files under the names of the official checkpoint. Does not own the files. */
record RunTensors(String origin, TensorSource item, TensorSource user, TensorSource rest) implements TensorSource {
    private static final String ITEM = "item_llm.";
    private static final String USER = "user_llm.";

    @Override
    public Set<String> names() {
        Set<String> names = new HashSet<>(rest.names());
        item.names().forEach(n -> names.add(ITEM + n));
        user.names().forEach(n -> names.add(USER + n));
        return names;
    }

    @Override
    public TensorInfo info(String name) {
        return of(name).info(bare(name));
    }

    @Override
    public void read(String name, long first, FloatBuffer out) {
        of(name).read(bare(name), first, out);
    }

    private TensorSource of(String name) {
        return name.startsWith(ITEM) ? item : name.startsWith(USER) ? user : rest;
    }

    private String bare(String name) {
        return name.startsWith(ITEM) || name.startsWith(USER) ? name.substring(ITEM.length()) : name;
    }

    @Override
    public void close() {
        // the files are their opener's
    }
}
