/**
 * The native engine seen from Java: contexts, tensors on a device, and operations on them. The only package that knows
 * the generated bindings; no type of {@code java.lang.foreign} leaves it.
 *
 * <table>
 *   <caption>Which thread may call what</caption>
 *   <tr><th>Type</th><th>Thread safety</th></tr>
 *   <tr><td>static methods of {@link org.hllm4j.engine.Context}</td><td>any thread, at any time</td></tr>
 *   <tr><td>{@link org.hllm4j.engine.Context} and its {@link org.hllm4j.engine.Ops}</td>
 *       <td>one thread at a time; a native call from a second one is refused. Different contexts work in parallel (and
 *       share one team of compute threads)</td></tr>
 *   <tr><td>making, viewing, reading and writing a {@link org.hllm4j.engine.Tensor};
 *       {@link org.hllm4j.engine.Workspace}; {@link org.hllm4j.engine.Weight#refresh}</td>
 *       <td>part of their context: the thread that uses it</td></tr>
 *   <tr><td>shape, dtype and other properties</td><td>any thread, immutable</td></tr>
 *   <tr><td>tensors, weights and plans as arguments</td>
 *       <td>any context of the same device, while nothing writes or closes them</td></tr>
 *   <tr><td>{@link org.hllm4j.engine.DType}, {@link org.hllm4j.engine.PlanSpec}, the records of
 *       {@link org.hllm4j.engine.Ops}</td><td>immutable (as far as their arrays are left alone)</td></tr>
 * </table>
 */
package org.hllm4j.engine;
