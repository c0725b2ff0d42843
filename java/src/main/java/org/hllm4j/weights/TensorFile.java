package org.hllm4j.weights;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.hllm4j.HllmException;

/** What the file formats share: mapped files, and a table of the tensors in them. */
abstract sealed class TensorFile implements TensorSource permits Safetensors, TorchCheckpoint, Gguf {
    private final String origin;
    final Map<String, StoredTensor> tensors = new LinkedHashMap<>();
    private final List<MappedFile> files = new ArrayList<>();

    TensorFile(String origin) {
        this.origin = origin;
    }

    /** Takes ownership of a mapped file. */
    final MappedFile own(MappedFile file) {
        files.add(file);
        return file;
    }

    final StoredTensor find(String name) {
        StoredTensor tensor = tensors.get(name);
        if (tensor == null) {
            throw new HllmException(origin + ": no tensor '" + name + "'; similar names: " + similar(name, names()));
        }
        return tensor;
    }

    @Override
    public final String origin() {
        return origin;
    }

    @Override
    public final Set<String> names() {
        return Collections.unmodifiableSet(tensors.keySet());
    }

    @Override
    public final TensorInfo info(String name) {
        return find(name).info();
    }

    @Override
    public final void read(String name, long first, FloatBuffer out) {
        StoredTensor tensor = find(name);
        long elements = tensor.info().elements();
        if (first < 0 || first > elements - out.remaining()) {
            throw new HllmException(origin + ": tensor '" + name + "' has " + elements + " elements, asked for "
                    + out.remaining() + " from " + first);
        }
        try {
            tensor.read(first, out);
        } catch (IllegalStateException e) {
            throw new HllmException(origin + ": read of tensor '" + name + "' after close", e);
        }
    }

    @Override
    public final void close() {
        files.forEach(MappedFile::close);
    }

    /** Up to three names at the smallest edit distance. */
    static List<String> similar(String name, Set<String> names) {
        // hostile files may hold many or endless names: look at a bounded part
        return names.stream()
                .limit(10_000)
                .filter(other -> other.length() <= 200)
                .sorted(Comparator.comparingInt(other -> distance(name, other)))
                .limit(3)
                .toList();
    }

    private static int distance(String a, String b) {
        int[] row = new int[b.length() + 1];
        for (int j = 0; j <= b.length(); j++) {
            row[j] = j;
        }
        for (int i = 1; i <= a.length(); i++) {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.length(); j++) {
                int replaced = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.min(replaced, Math.min(row[j], row[j - 1]) + 1);
            }
        }
        return row[b.length()];
    }
}
