/* Keeps a value in a pool by a key of one's own; run it twice, and the second run finds it. */
#include <cmpool.h>

#include <stdio.h>
#include <string.h>

static int failed(const char* what, const cmpool_error* error) {
    fprintf(stderr, "%s: %s: %s\n", what, cmpool_code_name(error->code), error->text);
    return 1;
}

int main(int argc, char** argv) {
    const char* uri = argc > 1 ? argv[1] : "cmpool://127.0.0.1:7411";
    const cmpool_namespace space = {.size = sizeof space, .model = "greetings", .dtype = "bytes"};
    cmpool_error error = {.size = sizeof error};
    cmpool_pool* pool = NULL;
    if (cmpool_open(uri, &space, &pool, &error) != CMPOOL_OK) return failed("open", &error);

    cmpool_digest key;
    if (cmpool_key(pool, "greeting", 8, &key, &error) != CMPOOL_OK) return failed("key", &error);

    char value[64] = "";
    const cmpool_span into = {value, sizeof value};
    const cmpool_get_item get = {.size = sizeof get, .key = key, .into = &into, .into_count = 1};
    cmpool_result result = {.size = sizeof result};
    const cmpool_options soon = {.size = sizeof soon, .deadline_ns = 50 * 1000 * 1000};
    cmpool_get(pool, &get, 1, &soon, &result, &error);  /* a failure is a miss, within 50 ms */
    if (result.outcome == CMPOOL_HIT) {
        printf("found \"%.*s\"\n", (int)result.bytes, value);
    } else {
        const cmpool_view from = {"hello", strlen("hello")};
        const cmpool_put_item put = {.size = sizeof put, .key = key, .from = &from, .from_count = 1};
        cmpool_put(pool, &put, 1, NULL, &result, &error);
        if (result.outcome != CMPOOL_STORED) return failed("put", &error);
        printf("stored %u bytes\n", (unsigned)result.bytes);
    }
    cmpool_close(pool);
    return 0;
}
