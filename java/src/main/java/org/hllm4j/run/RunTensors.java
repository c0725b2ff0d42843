package org.hllm4j.run;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.HashSet;
import java.util.Set;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;

/**
 * A run's weight files under the names of the official checkpoint. Owns the files.
 *
 * @param item null where items are known by their ids
 */
record RunTensors(String origin, TensorSource item, TensorSource user, TensorSource rest) implements TensorSource {
    private static final String ITEM = "item_llm.";
    private static final String USER = "user_llm.";

    @Override
    public Set<String> names() {
        Set<String> names = new HashSet<>(rest.names());
        if (item != null) {
            item.names().forEach(n -> names.add(ITEM + n));
        }
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

    @Override
    public ByteBuffer stored(String name) {
        return of(name).stored(bare(name));
    }

    @Override
    public void unload(String name) {
        of(name).unload(bare(name));
    }

    private TensorSource of(String name) {
        return name.startsWith(ITEM) && item != null ? item : name.startsWith(USER) ? user : rest;
    }

    private String bare(String name) {
        return name.startsWith(ITEM) || name.startsWith(USER) ? name.substring(ITEM.length()) : name;
    }

    @Override
    public void close() {
        if (item != null) {
            item.close();
        }
        user.close();
        rest.close();
    }
}
