package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * The state dict of a PyTorch checkpoint ({@code pytorch_model.bin}), as torch.save writes it since version 1.6: a zip
 * of a pickle and raw storages. Nothing in it is executed, see {@link StatePickle}. Tensors in nested dicts get dotted
 * names; values that are not tensors are ignored.
 */
public final class TorchCheckpoint extends TensorFile {
    private static final int MAX_DEPTH = 16;
    /** A pickle may refer to one dict many times over; this bounds the walk. */
    private static final int MAX_VALUES = 1_000_000;

    private int values;

    private TorchCheckpoint(String origin) {
        super(origin);
    }

    /** Maps one file. */
    public static TorchCheckpoint open(Path file) {
        TorchCheckpoint source = new TorchCheckpoint(file.toString());
        source.loadFile(file);
        return source;
    }

    /** Maps {@code pytorch_model.bin}, or the shards that {@code pytorch_model.bin.index.json} lists. */
    public static TorchCheckpoint openFolder(Path folder) {
        TorchCheckpoint source = new TorchCheckpoint(folder.toString());
        source.loadFolder(folder, "pytorch_model.bin");
        return source;
    }

    @Override
    void add(MappedFile file, Map<String, StoredTensor> into) {
        String origin = file.origin();
        if (file.bytes().byteSize() < 4 || new ByteCursor(file.bytes(), origin).i32("magic") != ZipArchive.LOCAL) {
            throw new HllmException(origin + ": not a zip checkpoint; files of torch.save before PyTorch 1.6 (or with "
                    + "_use_new_zipfile_serialization=False) are not read: load it in PyTorch and save it again");
        }
        Map<String, MemorySegment> entries = new ZipArchive(file.bytes(), origin).entries();
        List<String> pickles = entries.keySet().stream()
                .filter(name -> name.matches("[^/]+/data\\.pkl"))
                .toList();
        if (pickles.size() != 1) {
            throw new HllmException(
                    origin + ": expected one entry <name>/data.pkl, found " + pickles + "; not written by torch.save");
        }
        String prefix = pickles.get(0).substring(0, pickles.get(0).length() - "data.pkl".length());
        MemorySegment order = entries.get(prefix + "byteorder");
        if (order != null
                && !new ByteCursor(order, origin)
                        .utf8(order.byteSize(), "byteorder")
                        .equals("little")) {
            throw new HllmException(origin + ": written on a big-endian machine, expected byteorder little");
        }
        Object root = StatePickle.read(entries.get(pickles.get(0)), origin + "!data.pkl");
        if (!(root instanceof Map<?, ?> dict)) {
            throw new HllmException(origin + ": holds a single value, expected a state dict");
        }
        flatten(origin, "", dict, 0, prefix, entries, into);
    }

    private void flatten(
            String origin,
            String path,
            Map<?, ?> dict,
            int depth,
            String prefix,
            Map<String, MemorySegment> entries,
            Map<String, StoredTensor> into) {
        if (depth > MAX_DEPTH || (values += dict.size()) > MAX_VALUES) {
            throw new HllmException(origin + ": dicts nested deeper than " + MAX_DEPTH + ", or more than " + MAX_VALUES
                    + " values; not a state dict");
        }
        dict.forEach((key, value) -> {
            String name = path + key;
            if (value instanceof Map<?, ?> inner) {
                flatten(origin, name + ".", inner, depth + 1, prefix, entries, into);
            } else if (value instanceof StatePickle.TensorView view) {
                String entry = prefix + "data/" + view.storage().key();
                if (into.put(name, tensor(origin, name, view, entries.get(entry))) != null) {
                    throw new HllmException(origin + ": tensor '" + name + "' is there twice");
                }
            }
        });
    }

    private static StoredTensor tensor(String origin, String name, StatePickle.TensorView view, MemorySegment stored) {
        StoredType type = view.storage().type();
        long size = view.storage().elements();
        if (stored == null || stored.byteSize() < type.bytes(size)) {
            throw new HllmException(origin + ": tensor '" + name + "' needs storage data/"
                    + view.storage().key() + " of " + size + " " + type + ", it is "
                    + (stored == null ? "absent" : "too short"));
        }
        long[] shape = view.shape();
        long[] strides = view.strides();
        TensorInfo info = TensorInfo.in(origin, name, type, shape);
        boolean valid = shape.length == strides.length && view.offset() >= 0;
        long last = view.offset();
        boolean contiguous = true;
        long next = 1;
        try {
            for (int d = shape.length - 1; d >= 0 && valid; d--) {
                valid = strides[d] >= 0;
                last = Math.addExact(last, Math.multiplyExact(Math.max(shape[d] - 1, 0), strides[d]));
                contiguous &= shape[d] == 1 || strides[d] == next;
                next *= shape[d];
            }
        } catch (ArithmeticException e) {
            valid = false;
        }
        long elements = info.elements();
        if (!valid || elements > 0 && last >= size || view.offset() > size) {
            throw new HllmException(origin + ": tensor '" + name + "' of shape " + Arrays.toString(shape) + ", strides "
                    + Arrays.toString(strides) + " and offset " + view.offset() + " leaves its storage of " + size
                    + " elements");
        }
        if (contiguous || elements == 0) {
            return new StoredTensor.Contiguous(info, stored.asSlice(type.bytes(view.offset()), info.bytes()));
        }
        return new StoredTensor.Strided(info, stored, view.offset(), strides);
    }
}
