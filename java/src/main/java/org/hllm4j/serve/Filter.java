package org.hllm4j.serve;

import java.util.Set;

/**
 * Which items an answer may hold, by id; ids that are not in the catalogue mean nothing.
 *
 * @param allow only these; null: all
 * @param deny none of these
 */
public record Filter(Set<String> allow, Set<String> deny) {
    public static final Filter NONE = new Filter(null, Set.of());
}
