# Bugs planted in copies of the CUDA sources: each makes a plugin of its own, and a test of the operation, the same that the
# real plugin passes, must say what is wrong.

# planted_bug(<name> <file> <source> <text> <replacement> <tests> <expected>): `text` in native/cuda/<file> is replaced, and
# native/cuda/<source>, the file itself or one that includes it, is compiled again. Running `tests` must print `expected`.
function(planted_bug name file source text replacement tests expected)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/planted_bugs/${name})
  set(original ${PROJECT_SOURCE_DIR}/native/cuda/${file})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${original})
  file(READ ${original} code)
  string(FIND "${code}" "${text}" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "Planted bug ${name}: native/cuda/${file} no longer holds this text; plant the bug anew.\n${text}")
  endif()
  string(REPLACE "${text}" "${replacement}" code "${code}")
  file(WRITE ${folder}/changed "${code}")
  configure_file(${folder}/changed ${folder}/cuda/${file} COPYONLY)  # leaves the copy alone if it is the same as before
  if(file STREQUAL source)
    set(compiled ${folder}/cuda/${source})
    set_source_files_properties(${compiled} PROPERTIES LANGUAGE CXX)
  else()
    set(compiled ${PROJECT_SOURCE_DIR}/native/cuda/${source})
    file(READ ${compiled} includes)
    if(NOT includes MATCHES "#include \"cuda/${file}\"")
      message(FATAL_ERROR "Planted bug ${name}: native/cuda/${source} does not include ${file} any more; plant the bug anew.")
    endif()
  endif()

  set(target planted_bug_${name})
  add_library(${target}_source OBJECT ${compiled})
  set_target_properties(${target}_source PROPERTIES CXX_STANDARD 17 POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${target}_source BEFORE PRIVATE ${folder})
  target_include_directories(${target}_source PRIVATE ${PROJECT_SOURCE_DIR}/native/include)
  target_compile_definitions(${target}_source PRIVATE HLLM_VERSION="${PROJECT_VERSION}")
  target_compile_options(${target}_source PRIVATE -O1 -w -ffp-contract=off)
  target_link_libraries(${target}_source PRIVATE cuda_emulator)
  # The changed object first: of a kernel in a header, which several objects have, the linker takes the first.
  add_library(${target} SHARED $<TARGET_OBJECTS:${target}_source>
    $<FILTER:$<TARGET_OBJECTS:hllm_cuda_emulated>,EXCLUDE,/cuda/${source}>)
  set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX OUTPUT_NAME hllm_cuda_emulated
    LIBRARY_OUTPUT_DIRECTORY ${folder})
  target_link_libraries(${target} PRIVATE cuda_emulator Threads::Threads)
  target_link_options(${target} PRIVATE ${HLLM_SELF_CONTAINED}
    -Wl,--version-script,${PROJECT_SOURCE_DIR}/native/plugin.map)
  add_dependencies(hllm_test ${target})
  add_test(NAME ${target} COMMAND hllm_test --gtest_filter=${tests})
  set_tests_properties(${target} PROPERTIES TIMEOUT 600 PASS_REGULAR_EXPRESSION "${expected}"
    ENVIRONMENT "HLLM_TEST_DEVICE=cuda-emulated;HLLM_PLUGIN_PATH=${folder}")
endfunction()

planted_bug(block_barrier pack.cuh rmsnorm.cu
  "scratch.store(warp(), value);\n    block_barrier();" "scratch.store(warp(), value);"
  RmsNorm.ForwardAndBackward "RmsNorm.*race: ")
planted_bug(barrier_between_rounds pack.cuh infonce.cu
  "block_barrier();  // the scratch may still be read from the last time" ""
  InfoNce.* "race: ")
planted_bug(warp_barrier sort.cuh row_sums.cu
  "place = next.load(digit);\n            warp_barrier();" "place = next.load(digit);"
  Rows.Gradients* "SortPass.*race: write of shared memory")
planted_bug(wait_for_a_copy attention.cuh attention_forward.cu
  "cp_async_wait<1>();" "cp_async_wait<2>();"
  Attention.Bf16OnTensorCores "before its cp_async_wait")
planted_bug(divergent_barrier pack.cuh rmsnorm.cu
  "sums.store(thread(), sum);\n        block_barrier();\n        if (warp() > 0 || column >= D) return;"
  "sums.store(thread(), sum);\n        if (column >= D) return;\n        block_barrier();\n        if (warp() > 0) return;"
  RmsNorm.ForwardAndBackward "SumPartials.*divergent: ")
planted_bug(off_by_one_tile pack.cuh rmsnorm.cu
  "{static_cast<int>((D + 31) / 32)}" "{static_cast<int>((D + 30) / 32)}"
  RmsNorm.ForwardAndBackward "FAILED  . RmsNorm.ForwardAndBackward")
planted_bug(off_by_one_pack rmsnorm.cu rmsnorm.cu
  "const auto w = load<N>(weight + i);" "const auto w = load<N>(weight + i + N);"
  RmsNorm.ForwardAndBackward "invalid access: .* of an allocation of")
planted_bug(shared_too_small pack.cuh rmsnorm.cu
  "threads, threads * 4," "threads, threads * 4 - 4,"
  RmsNorm.ForwardAndBackward "SumPartials.*bytes of shared memory")
planted_bug(wrong_lane attention.cuh attention_forward.cu
  "a[0] = pack_bf16(low[0], low[1]), a[1] = pack_bf16(low[2], low[3]);"
  "a[0] = pack_bf16(low[0], low[1]), a[1] = pack_bf16(low[3], low[2]);"
  Attention.Bf16OnTensorCores "FAILED  . Attention.Bf16OnTensorCores")
planted_bug(early_free backend.cu backend.cu
  "cudaFreeAsync(data, queue.capturing ? queue.aside : queue.stream);" "cudaFreeAsync(data, queue.aside);"
  Abi.DestroyedInTheOrderOfTheWork "lies in no live allocation")
planted_bug(reused_staging backend.cu backend.cu
  "if (queue.staged == half * Queue::HALF) check(cudaEventSynchronize(queue.half_free[half]), \"buffer_write\");" ""
  Abi.LargeCopies "FAILED  . Abi.LargeCopies")
