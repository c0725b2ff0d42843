package org.hllm4j.weights;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import org.hllm4j.HllmException;

/**
 * A {@code *.index.json}: which tensor lies in which shard file.
 *
 * @param file the index itself
 * @param shards tensor names by shard file name
 */
record ShardIndex(Path file, Map<String, Set<String>> shards) {
    static ShardIndex read(Path file) {
        JsonNode map = Json.object(file).path("weight_map");
        if (!map.isObject() || map.isEmpty()) {
            throw new HllmException(file + ": expected \"weight_map\": {tensor name: shard file, ...}");
        }
        Map<String, Set<String>> shards = new LinkedHashMap<>();
        map.forEachEntry((tensor, shard) -> {
            String name = shard.asText();
            // a shard lies beside its index: an index must not lead a reader to other folders
            if (!shard.isTextual()
                    || name.isEmpty()
                    || name.contains("/")
                    || name.contains("\\")
                    || name.contains("\0")
                    || name.equals("..")) {
                throw new HllmException(file + ": tensor '" + tensor + "': shard " + shard
                        + " is not the name of a file in this folder");
            }
            shards.computeIfAbsent(name, key -> new LinkedHashSet<>()).add(tensor);
        });
        return new ShardIndex(file, shards);
    }

    /** Moves the tensors that the index assigns to a shard from the shard's table to the folder's. */
    void select(String shard, Map<String, StoredTensor> found, Map<String, StoredTensor> into) {
        for (String name : shards.get(shard)) {
            StoredTensor tensor = found.get(name);
            if (tensor == null) {
                throw new HllmException(file.resolveSibling(shard) + ": tensor '" + name + "' is not here, although "
                        + file.getFileName() + " says so; the index and the shards are of different models");
            }
            into.put(name, tensor);
        }
    }
}
