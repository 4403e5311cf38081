# What every target of the project shares: language, warnings, sanitizers, ccache, packages.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Optimised, but with assertions of our own (CMPOOL_ASSERT is on in production too).
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
if(CMPOOL_SANITIZE)
  # Half the time to compile, and the tests are quick enough.
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -DNDEBUG")
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Precompiled headers need these two sloppinesses to be cached at all.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE_PROGRAM})
endif()

set(CMPOOL_SANITIZE "" CACHE STRING "Sanitizers to build with, such as address,undefined or thread")
option(CMPOOL_FUZZ "Build the fuzzers with libFuzzer (clang)" OFF)

# Flags go on one interface target, so that packages' headers keep their own.
add_library(cmpool_flags INTERFACE)
target_compile_options(cmpool_flags INTERFACE -Wall -Wextra -Wpedantic -Werror -Wshadow -Wnon-virtual-dtor
    -Wold-style-cast -Woverloaded-virtual -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers)
if(CMPOOL_SANITIZE)
  add_compile_options(-fsanitize=${CMPOOL_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${CMPOOL_SANITIZE})
  if(CMPOOL_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
  if(CMPOOL_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ does not instrument fences; the code that needs one says so where it uses it.
    add_compile_options(-Wno-tsan)
  endif()
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # Else a precompiled header differs each time it is made, and ccache knows nothing that was built with it.
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>")
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tl-expected REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(SODIUM REQUIRED IMPORTED_TARGET libsodium)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(VERBS REQUIRED IMPORTED_TARGET libibverbs)

# cmpool_library(NAME ALIAS sources...): a static library of the project with the shared flags.
function(cmpool_library name alias)
  add_library(${name} STATIC ${ARGN})
  add_library(cmpool::${alias} ALIAS ${name})
  target_link_libraries(${name} PRIVATE cmpool_flags)
endfunction()
