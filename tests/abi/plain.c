/* A C program that does all that a cache would: built as C11 with pedantic warnings. Its argument is a URI. */
#include <cmpool.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 3
#define BYTES 4096

static void check(int true_so, const char* what) {
    if (true_so) return;
    fprintf(stderr, "not so: %s\n", what);
    exit(1);
}
#define CHECK(what) check(what, #what)

int main(int argc, char** argv) {
    static unsigned char blocks[BLOCKS][BYTES];
    uint32_t tokens[BLOCKS * 4 + 1] = {1, 2, 3};
    const cmpool_namespace space = {
        .size = sizeof space, .model = "plain", .dtype = "u8", .block_tokens = 4};
    cmpool_error error = {.size = sizeof error};
    cmpool_pool* pool = NULL;
    cmpool_digest keys[BLOCKS];
    cmpool_put_item puts[BLOCKS];
    cmpool_get_item gets[BLOCKS];
    cmpool_view from[BLOCKS];
    cmpool_span into[BLOCKS];
    cmpool_result results[BLOCKS] = {{.size = sizeof results[0]}};
    cmpool_lease* lease = NULL;
    cmpool_call* call = NULL;
    size_t count = 0, at;

    check(argc == 2, "usage: abi_plain URI");
    check(cmpool_open(argv[1], &space, &pool, &error) == CMPOOL_OK, error.text);
    CHECK(cmpool_chain(pool, tokens, sizeof tokens / sizeof tokens[0], keys, BLOCKS, &count, &error) ==
          CMPOOL_OK);
    CHECK(count == BLOCKS);
    memset(puts, 0, sizeof puts);
    memset(gets, 0, sizeof gets);
    for (at = 0; at < BLOCKS; ++at) {
        memset(blocks[at], (int)at + 1, BYTES);
        from[at].data = into[at].data = blocks[at];
        from[at].bytes = into[at].bytes = BYTES;
        puts[at].size = sizeof puts[at];
        gets[at].size = sizeof gets[at];
        puts[at].key = gets[at].key = keys[at];
        puts[at].group = gets[at].group = cmpool_group(pool, keys, (uint32_t)at);
        puts[at].position = (uint32_t)at;
        if (at > 0) puts[at].parent = keys[at - 1];
        puts[at].from = &from[at];
        gets[at].into = &into[at];
        puts[at].from_count = gets[at].into_count = 1;
    }
    CHECK(cmpool_put(pool, puts, BLOCKS, NULL, results, &error) == CMPOOL_OK);
    for (at = 0; at < BLOCKS; ++at) CHECK(results[at].outcome == CMPOOL_STORED);
    CHECK(cmpool_match(pool, keys, BLOCKS, NULL, &lease, &count, &error) == CMPOOL_OK);
    CHECK(count == BLOCKS && cmpool_lease_held(lease));
    memset(blocks, 0, sizeof blocks);
    CHECK(cmpool_start_get(pool, gets, BLOCKS, NULL, &call, &error) == CMPOOL_OK);
    CHECK(cmpool_wait(call, &error) == CMPOOL_OK);
    CHECK(cmpool_finish(call, results, BLOCKS, &error) == CMPOOL_OK);
    for (at = 0; at < BLOCKS; ++at) {
        CHECK(results[at].outcome == CMPOOL_HIT && results[at].bytes == BYTES);
        CHECK(blocks[at][0] == at + 1 && blocks[at][BYTES - 1] == at + 1);
    }
    cmpool_release(lease);
    cmpool_close(pool);
    printf("all is well\n");
    return 0;
}
