package org.hllm4j.weights;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
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

    /** Checks the structure of a file and adds its tensors to a table. */
    abstract void add(MappedFile file, Map<String, StoredTensor> into);

    final void loadFile(Path file) {
        try {
            add(map(file), tensors);
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    /** Loads the single file of that name, or the shards that {@code <single>.index.json} lists. */
    final void loadFolder(Path folder, String single) {
        Path indexFile = folder.resolve(single + ".index.json");
        if (Files.isRegularFile(folder.resolve(single))) {
            loadFile(folder.resolve(single));
            return;
        }
        if (!Files.isRegularFile(indexFile)) {
            throw new HllmException("no weights in " + folder.toAbsolutePath() + ": looked for " + single + " and "
                    + indexFile.getFileName());
        }
        try {
            ShardIndex index = ShardIndex.read(indexFile);
            for (String shard : index.shards().keySet()) {
                Map<String, StoredTensor> found = new LinkedHashMap<>();
                add(map(folder.resolve(shard)), found);
                index.select(shard, found, tensors);
            }
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    private MappedFile map(Path path) {
        MappedFile file = new MappedFile(path);
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
    public final ByteBuffer stored(String name) {
        return find(name).stored();
    }

    @Override
    public final void unload(String name) {
        find(name).unload();
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
