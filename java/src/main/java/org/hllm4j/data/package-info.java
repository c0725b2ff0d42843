/**
 * Tables, splits, training sequences, negatives, and the packing of token sequences. Items are row numbers of the
 * {@link org.hllm4j.data.Catalogue}; nothing here knows of models or devices.
 */
package org.hllm4j.data;
